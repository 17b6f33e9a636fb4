"""One server for all tests of a worker: the shipped checkpoint, served from a thread, with a brake."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from niels_gpt.conversation.opening import open_model
from niels_gpt.conversation.options import ChatOptions
from niels_gpt.conversation.settings import Settings
from niels_gpt.server.app import make_app
from niels_gpt.server.options import ServeOptions
from niels_gpt.server.run import configured
from sessions import Store, open_store
from tests.server.server_process import Client

PATIENCE = 20


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The first test may wait for the kernels to be compiled.
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.timeout(240))


class Brake:
    """A decoder that a test can hold between two steps."""

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder
        self.moving = threading.Event()
        self.moving.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    def advance(self, sequences: Sequence[Any]) -> Any:
        assert self.moving.wait(PATIENCE), "the test never let go"
        return self._decoder.advance(sequences)


class ThreadServer(Client):
    """The application on a thread of this process."""

    def __init__(self, folder: Path, store: Store, model: Any, **values: Any) -> None:
        self.folder = folder
        self.store = store
        self.model = model
        self.options = ServeOptions(port=0, **values)
        self.app = make_app(self.options, store, model)
        config = configured(self.app, self.options)
        self._socket = config.bind_socket()
        self.port = self._socket.getsockname()[1]
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)

    @property
    def brake(self) -> Brake:
        return self.model.decoder

    def start(self) -> None:
        self._socket.listen()  # a request may come before the server takes it
        self._thread.start()
        self.json("GET", "/health")

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        self._socket.close()


@pytest.fixture(scope="session")
def model() -> Iterator[Any]:
    loaded: Any = open_model(ChatOptions())
    loaded.decoder = Brake(loaded.decoder)
    yield loaded
    loaded.close()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, model: Any) -> Iterator[ThreadServer]:
    folder = tmp_path_factory.mktemp("server")
    chat = ChatOptions(settings={"max_new_tokens": Settings().max_new_tokens})
    with open_store(folder / "sessions.db") as store:
        running = ThreadServer(folder, store, model, chat=chat)
        running.start()
        yield running
        running.brake.moving.set()
        running.stop()


@pytest.fixture
def server(shared: ThreadServer) -> Iterator[ThreadServer]:
    yield shared
    shared.brake.moving.set()
