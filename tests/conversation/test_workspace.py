"""Loading and exchanging the model while other things happen, with gates in place of slow checkpoints."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from niels_gpt.conversation.errors import LoadFailed
from niels_gpt.conversation.options import ChatOptions
from niels_gpt.conversation.workspace import Workspace
from sessions import Store, open_store


class Checkpoints:
    """Loads a scripted model for each path, once its gate is open."""

    def __init__(self, folder: Path, scripted: Any) -> None:
        self.folder = folder
        self.models: dict[str, Any] = {}
        self.gates = {name: threading.Event() for name in ("big", "small", "other")}
        for name in self.gates:
            (folder / name).touch()
            self.models[name] = scripted([name], fingerprint=name)

    def load(self, options: ChatOptions) -> Any:
        name = options.checkpoint.name
        assert self.gates[name].wait(20)
        return self.models[name]

    def workspace(self) -> Workspace:
        options = ChatOptions(session="a", checkpoint=self.folder / "big")
        path = self.folder / "sessions.db"
        return Workspace(options, open_store=lambda _: open_store(path), load_model=self.load)


@pytest.fixture
def checkpoints(tmp_path: Path, scripted: Any) -> Checkpoints:
    return Checkpoints(tmp_path, scripted)


def run(workspace: Workspace, work: Any) -> None:
    async def both() -> None:
        workspace.start()
        serving = asyncio.ensure_future(workspace.serve())
        try:
            await asyncio.wait_for(work(), 20)
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)

    try:
        asyncio.run(both())
    finally:
        for thread in threading.enumerate():
            if thread.name.startswith("loader"):
                thread.join(20)
        workspace.close()


def test_store_and_model_load_next_to_each_other(checkpoints: Checkpoints) -> None:
    def open_later(_options: ChatOptions) -> Store:
        checkpoints.gates["big"].set()
        assert loaded.wait(20)
        return open_store(checkpoints.folder / "sessions.db")

    def load(options: ChatOptions) -> Any:
        model = checkpoints.load(options)
        loaded.set()
        return model

    loaded = threading.Event()
    options = ChatOptions(session="a", checkpoint=checkpoints.folder / "big")
    workspace = Workspace(options, open_store=open_later, load_model=load)
    run(workspace, workspace.open_conversation)


def test_a_model_asked_for_while_the_first_still_loads_is_the_one_that_answers(
    checkpoints: Checkpoints,
) -> None:
    workspace = checkpoints.workspace()

    async def work() -> None:
        await workspace.open_session()
        checkpoints.gates["small"].set()
        await workspace.use(checkpoints.folder / "small")
        checkpoints.gates["big"].set()
        await asyncio.wrap_future(workspace._model_loading)
        conversation = await workspace.open_conversation()
        assert workspace.options.checkpoint.name == "small"
        assert conversation.model is checkpoints.models["small"]
        # Whoever has loaded too late is closed, and not held in memory.
        await asyncio.sleep(0)
        assert checkpoints.models["big"].closed

    run(workspace, work)
    assert checkpoints.models["small"].closed


def test_a_model_whose_loading_was_cancelled_is_closed_once_it_is_loaded(checkpoints: Checkpoints) -> None:
    workspace = checkpoints.workspace()

    async def work() -> None:
        checkpoints.gates["big"].set()
        await workspace.open_conversation()
        loading = asyncio.ensure_future(workspace.use(checkpoints.folder / "other"))
        await asyncio.sleep(0)
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        checkpoints.gates["other"].set()
        for thread in threading.enumerate():
            if thread.name == "loader-2":
                await asyncio.to_thread(thread.join, 20)
        assert checkpoints.models["other"].closed
        assert (await workspace.open_conversation()).model is checkpoints.models["big"]
        assert workspace.options.checkpoint.name == "big"

    run(workspace, work)


def test_a_model_that_does_not_load_leaves_the_one_before(checkpoints: Checkpoints) -> None:
    workspace = checkpoints.workspace()

    async def work() -> None:
        checkpoints.gates["big"].set()
        await workspace.open_conversation()
        with pytest.raises(LoadFailed, match="does not exist"):
            await workspace.use(checkpoints.folder / "none")
        assert (await workspace.open_conversation()).model is checkpoints.models["big"]

    run(workspace, work)
