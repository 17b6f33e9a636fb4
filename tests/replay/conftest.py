"""One recorded session of each kind, made once; every test gets a copy of the store that it may damage."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from niels_gpt.conversation import branching
from niels_gpt.conversation.conversation import Conversation
from niels_gpt.conversation.options import ChatOptions
from niels_gpt.decoding.backend import Backend
from niels_gpt.replay.find_checkpoint import Load
from niels_gpt.replay.replay import Replay, replay
from sessions import open_store
from tests.replay.recordings import (
    Ear,
    loaded,
    record_session,
    say,
    stalling,
    stop_soon,
    tiny_checkpoint,
)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("replay") / "tiny.pt")


@pytest.fixture(scope="session")
def model(checkpoint: Path) -> Iterator[Backend]:
    with closing(loaded(checkpoint)) as model:
        yield model


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory, model: Backend) -> Path:
    """A store with the session "talk": six turns, older ones dropped towards the end; one of them stopped."""
    path = tmp_path_factory.mktemp("recorded") / "sessions.db"

    async def forked(conversation: Conversation) -> None:
        await branching.fork_at(conversation, 7, Ear(), name="talk at 7")

    anyio.run(
        record_session, path, model, "talk",
        [
            lambda c: say(c, "hello", "who is niels?"),
            lambda c: c.session.change("temperature", 0.0),
            lambda c: say(c, "what is a cache?"),
            lambda c: c.session.change("temperature", 1.2),
        ],
    )  # fmt: skip
    anyio.run(record_session, path, stalling(model), "talk", [stop_soon])
    anyio.run(
        record_session, path, model, "talk",
        [
            lambda c: say(c, "and then?"),
            lambda c: branching.retry(c, Ear()),
            lambda c: say(c, "thank you"),
            forked,
        ],
    )  # fmt: skip
    return path


@pytest.fixture
def store_path(tmp_path: Path, recorded: Path) -> Path:
    return Path(shutil.copy(recorded, tmp_path / "sessions.db"))


@pytest.fixture
def damage(store_path: Path) -> Callable[..., None]:
    """Change stored bytes behind the store's back."""

    def change(statement: str, *values: object) -> None:
        with closing(sqlite3.connect(store_path)) as database, database:
            assert database.execute(statement, values).rowcount

    return change


@pytest.fixture
def replayed(store_path: Path, checkpoint: Path) -> Callable[..., Replay]:
    """Replay a session of the store with the tiny checkpoint, or what `load` gives in its place."""

    def run(
        name: str = "talk", *, load: Load | None = None, path: Path = checkpoint, **chosen: Any
    ) -> Replay:
        options = ChatOptions(checkpoint=path, checkpoint_given=True, threads=1)
        with open_store(store_path) as store:
            return anyio.run(lambda: replay(store, name, options, load or _load, **chosen))

    return run


def _load(options: ChatOptions) -> Backend:
    return loaded(options.checkpoint, weights=options.weights)
