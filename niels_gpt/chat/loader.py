"""Load what is heavy behind the prompt: the store first, then torch and the checkpoint.

Importing this module costs nothing; `start` does the work on one thread of its own. Every failure comes
out of the two waits as LoadFailed, in one line. For asyncio; knows no terminal and no conversation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from niels_gpt.chat.errors import LoadFailed
from niels_gpt.chat.options import Options

if TYPE_CHECKING:
    from niels_gpt.chat.model import LoadedModel
    from sessions import Store

T = TypeVar("T")


def _open_store(options: Options) -> Store:
    from niels_gpt.chat import record  # noqa: PLC0415 - heavy: belongs behind the prompt

    return record.open_store(options)


def _load_model(options: Options) -> LoadedModel:
    from niels_gpt.chat import conversation, model  # noqa: F401, PLC0415 - both are needed next

    return model.load_model(options)


class Loader:
    """Loads once. The functions can be replaced, so that a test needs no checkpoint."""

    def __init__(
        self,
        options: Options,
        *,
        open_store: Callable[[Options], Store] = _open_store,
        load_model: Callable[[Options], LoadedModel] = _load_model,
    ) -> None:
        self._options = options
        self._steps = (open_store, load_model)
        self._store: Future[Store] = Future()
        self._model: Future[LoadedModel] = Future()
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

    async def model(self) -> LoadedModel:
        """Return the model as soon as it is there; LoadFailed."""
        return await _result(self._model)

    def close(self) -> None:
        """Close the store if it was opened."""
        if self._store.done() and self._store.exception() is None:
            self._store.result().close()

    def _load(self) -> None:
        open_store, load_model = self._steps
        if self._run(self._store, open_store):
            self._run(self._model, load_model)
        else:
            self._model.set_exception(LoadFailed("not loaded: the store did not open"))

    def _run(self, future: Future[T], step: Callable[[Options], T]) -> bool:
        try:
            future.set_result(step(self._options))
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
