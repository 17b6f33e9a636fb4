"""Load what is heavy behind the prompt: the store first, then torch and the checkpoint.

Importing this module costs nothing; `start` does the work on one thread of its own. Every failure comes
out of the waits as LoadFailed, in one line. Who made the loader closes it, and with it what it has loaded.
For asyncio; knows no terminal and no conversation.
"""

from __future__ import annotations

import asyncio
import gc
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from niels_gpt.conversation.errors import LoadFailed
from niels_gpt.conversation.options import ChatOptions

if TYPE_CHECKING:
    from niels_gpt.conversation.conversation import ChatModel
    from sessions import Store

T = TypeVar("T")


class Loader:
    """Loads once. The functions can be replaced, so that a test needs no checkpoint."""

    def __init__(
        self,
        options: ChatOptions,
        *,
        open_store: Callable[[ChatOptions], Store] | None = None,
        load_model: Callable[[ChatOptions], ChatModel] | None = None,
    ) -> None:
        self._options = options
        self._open_store = open_store or self._open
        self._load_model = load_model or self._load_checkpoint
        self.progress: tuple[int, int] | None = None
        """How many kernels are prepared, of how many; None while none has to be."""
        self._others: list[ChatModel] = []
        self._thrown_away: tempfile.TemporaryDirectory[str] | None = None
        self._store: Future[Store] = Future()
        self._model: Future[ChatModel] = Future()
        self._executor: ThreadPoolExecutor | None = None

    @property
    def busy(self) -> bool:
        """Whether the thread still works: then an orderly end of the process would wait for it."""
        return self._executor is not None and not (self._store.done() and self._model.done())

    def start(self) -> None:
        """Begin to load; nothing when begun already."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="loader")
            self._executor.submit(self._load)
            self._executor.shutdown(wait=False)

    async def store(self) -> Store:
        """Return the open store as soon as it is there; LoadFailed."""
        return await _result(self._store)

    async def model(self) -> ChatModel:
        """Return the model as soon as it is there; LoadFailed."""
        return await _result(self._model)

    async def another(self, options: ChatOptions) -> ChatModel:
        """Load the model of other options beside the first; LoadFailed."""
        loading: Future[ChatModel] = Future()
        # A daemon: an import or a compilation cannot be interrupted, and no end of the program waits for it.
        threading.Thread(
            target=self._run, args=(loading, self._load_model, options), name="loader-2", daemon=True
        ).start()
        loading.add_done_callback(self._keep)
        return await _result(loading)

    def close(self) -> None:
        """Close what was loaded; call it when nothing loads any more."""
        if self._store.done() and self._store.exception() is None:
            self._store.result().close()
        if self._model.done() and self._model.exception() is None:
            self._others.append(self._model.result())
        for model in self._others:
            model.close()
        if self._thrown_away is not None:
            self._thrown_away.cleanup()

    def release(self, model: ChatModel) -> None:
        """Close a model that was loaded here, and let go of its memory."""
        if model in self._others:
            self._others.remove(model)
        else:
            self._model = Future()
            self._model.set_exception(LoadFailed("the model was given back"))
        model.close()

    def _open(self, options: ChatOptions) -> Store:
        from niels_gpt.conversation import session  # noqa: PLC0415 - heavy: belongs behind the prompt

        if not options.ephemeral:
            return session.open_store(options)
        # The store's guarantees need a file, so a chat that keeps nothing has one that nobody else can read.
        self._thrown_away = tempfile.TemporaryDirectory(prefix="niels-chat-")
        return session.open_store(replace(options, store=str(Path(self._thrown_away.name) / "sessions.db")))

    def _keep(self, loaded: Future[ChatModel]) -> None:
        if loaded.exception() is None:
            self._others.append(loaded.result())

    def _load_checkpoint(self, options: ChatOptions) -> ChatModel:
        from niels_gpt.conversation import conversation, model  # noqa: F401, PLC0415 - both are needed next

        loaded = model.load_model(options, on_progress=self._hear_progress)
        # torch has so many objects that a full garbage collection stops every thread for 0.15 s: none of
        # them will ever be garbage, so they are looked at no more.
        gc.freeze()
        return loaded

    def _hear_progress(self, done: int, total: int) -> None:
        self.progress = (done, total)

    def _load(self) -> None:
        if self._run(self._store, self._open_store, self._options):
            self._run(self._model, self._load_model, self._options)
        else:
            self._model.set_exception(LoadFailed("not loaded: the store did not open"))

    def _run(self, future: Future[T], step: Callable[[ChatOptions], T], options: ChatOptions) -> bool:
        try:
            future.set_result(step(options))
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is awaited
            future.set_exception(error)
            return False
        return True


async def _result(future: Future[T]) -> T:
    try:
        # Shielded: a wait that is given up, by ctrl-c say, must not cancel the load itself.
        return await asyncio.shield(asyncio.wrap_future(future))
    except LoadFailed:
        raise
    except Exception as error:
        raise LoadFailed(f"cannot start: {type(error).__name__}: {error}") from error
