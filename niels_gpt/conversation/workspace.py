"""What a front end works with: a store, one session and one model, served by an engine.

The store and the model load on threads, so that a prompt can be on the screen before anything heavy is
imported; `switch` and `use` exchange session and model between two messages. Importing this module costs
nothing. For asyncio.
"""

from __future__ import annotations

import asyncio
import gc
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread

from niels_gpt.conversation.errors import ChatError, LoadFailed, NotStoredYet, SessionTrouble
from niels_gpt.conversation.options import ChatOptions, check_checkpoint
from niels_gpt.errors import ReportedError

if TYPE_CHECKING:
    from engine import Event
    from niels_gpt.conversation.conversation import Conversation
    from niels_gpt.conversation.session import ConversationSession
    from niels_gpt.decoding.backend import Backend
    from sessions import Store

T = TypeVar("T")

RETRY_SECONDS = 1.0
"""How long a reply that the store could not take waits for the next attempt."""


class Workspace:
    """Loads and serves. `serve` must run next to everything else, in a task of its own.

    Args:
        options: What was asked for.
        open_store: Opens the store; a test can give one of its own.
        load_model: Loads a checkpoint; a test needs none.
    """

    def __init__(
        self,
        options: ChatOptions,
        *,
        open_store: Callable[[ChatOptions], Store] | None = None,
        load_model: Callable[[ChatOptions], Backend] | None = None,
    ) -> None:
        self.options = options
        """What was asked for, as far as it still holds: `use` and `switch` change it."""
        self.progress: tuple[int, int] | None = None
        """How many kernels are compiled, of how many; None while none has to be."""
        self.session: ConversationSession | None = None
        """The open session, None while it opens."""
        self.conversation: Conversation | None = None
        """The conversation of session and model, None while one of them loads."""
        self.store: Store | None = None
        """The open store, None while it opens."""
        self._open_store = open_store or self._open_real_store
        self._load_one = load_model or self._load_checkpoint
        self._store_loading: Future[Store] = Future()
        self._model_loading: Future[Backend] = Future()
        self._started = False
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._open_models: list[Backend] = []
        self._requests = 0
        self._in_use = 0
        self._model: Backend | None = None
        self._has_session = anyio.Event()
        self._has_model = anyio.Event()
        self._changed = anyio.Event()
        self._exchanged = False
        self._failure: LoadFailed | None = None
        self._on_news: Callable[[], None] = lambda: None

    @property
    def busy(self) -> bool:
        """Whether something still loads: then an orderly end of the process would wait for it."""
        return self._started and not (self._store_loading.done() and self._model_loading.done())

    def start(self) -> None:
        """Start to load on threads; nothing when that was done before."""
        if not self._started:
            self._started = True
            # Of what hundreds of imports make nothing is garbage; looking for it takes a sixth of their time.
            gc.disable()
            self._model_loading.add_done_callback(lambda _: gc.enable())
            # Next to each other: while one reads, hashes or packs weights, the other imports.
            store = (self._store_loading, self._open_store, self.options)
            model = (self._model_loading, self._load_model, self.options)
            threading.Thread(target=_settle, args=store, name="loader").start()
            threading.Thread(target=_settle, args=model, name="loader-model").start()

    async def serve(
        self,
        *,
        on_news: Callable[[], None] = lambda: None,
        on_event: Callable[[Event], None] = lambda _: None,
    ) -> None:
        """Load, then run the engine until cancelled. A failure to load comes out of the waits below.

        Args:
            on_news: Called when the session is open, when loading failed, and when a reply that was kept in
                memory is stored.
            on_event: Hears every event of every reply.
        """
        self._on_news = on_news
        try:
            self.store = await _result(self._store_loading)
            if self.options.latest:
                self.options = await anyio.to_thread.run_sync(with_latest, self.store, self.options)
            self.session = await self._open(self.store, self.options)
        except ReportedError as error:
            self._fail(error)
            return
        self._has_session.set()
        if self.options.session is not None:
            on_news()
        self._take_when_loaded(self._model_loading)
        await self._run(on_event)

    async def open_session(self) -> ConversationSession:
        """Return the session; waits while it opens. Raises LoadFailed."""
        await self._has_session.wait()
        if self._failure is not None:
            raise self._failure
        if self.session is None:
            raise LoadFailed("the session did not open")
        return self.session

    async def open_conversation(self) -> Conversation:
        """Return the conversation; waits while the model loads. Raises LoadFailed."""
        while self._failure is None:
            if self.conversation is not None:
                return self.conversation
            await self._has_model.wait()
        raise self._failure

    @property
    def has_session(self) -> bool:
        """Whether `open_session` returns at once."""
        return self._has_session.is_set()

    @property
    def has_model(self) -> bool:
        """Whether `open_conversation` returns at once."""
        return self._has_model.is_set()

    def loading(self) -> str:
        """Return what is being waited for."""
        if self.progress is None:
            return "loading the model"
        done, total = self.progress
        return f"compiling the kernels for this processor (once): {done} of {total}"

    async def switch(self, name: str) -> None:
        """Continue with another session, which must exist. A ChatError leaves everything as it is."""
        current = await self.open_session()
        await current.save()
        options = replace(self.options, session=name, settings={}, system=None)
        if self.store is None:
            raise LoadFailed("the store did not open")
        session = await self._open(self.store, options)
        if not session.exists:
            raise SessionTrouble(f"there is no session {name!r}: /sessions lists them")
        self.options, self.session = options, session
        self._exchange()

    async def use(self, checkpoint: Path) -> None:
        """Continue with another checkpoint. A LoadFailed leaves everything as it is.

        What was asked for last answers: a checkpoint that finishes loading after a later one was asked for,
        or after this wait was cancelled, is closed.
        """
        options = replace(self.options, checkpoint=checkpoint, checkpoint_given=True)
        check_checkpoint(options)
        self._requests += 1
        number = self._requests
        loading: Future[Backend] = Future()
        # A daemon: an import or a compilation cannot be interrupted, and the program ends without it.
        threading.Thread(
            target=_settle, args=(loading, self._load_model, options), name="loader-2", daemon=True
        ).start()
        try:
            model = await _result(loading)
        except BaseException:
            loading.add_done_callback(self._discard_loaded)
            raise
        if not self._take(model, number):
            raise ChatError(f"{str(checkpoint)!r} is not used: another checkpoint was asked for meanwhile")
        self.options = options

    async def save_at_the_end(self, seconds: float) -> str | None:
        """Try for some seconds to store what is kept in memory; return why it could not be."""
        if self.session is None or self.session.unsaved is None:
            return None
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(seconds, shield=True):
                while self.session.unsaved is not None and not await self._saved(self.session):
                    await anyio.sleep(RETRY_SECONDS)
            return self.session.unsaved

    def close(self) -> None:
        """Close what was loaded; call it when nothing loads any more."""
        if self._store_loading.done() and self._store_loading.exception() is None:
            self._store_loading.result().close()
        for model in list(self._open_models):
            self._discard(model)
        if self._scratch is not None:
            self._scratch.cleanup()

    async def _run(self, on_event: Callable[[Event], None]) -> None:
        """Run an engine over the model in use, and the next one when session or model are exchanged."""
        from niels_gpt.conversation.conversation import converse  # noqa: PLC0415 - imported by the loader's thread

        while self._failure is None:
            model, session = self._model, self.session
            self._exchanged = False
            if model is None or session is None:
                await self._changed.wait()
                self._changed = anyio.Event()
                continue
            session.on_unsaved = self._wake
            async with converse(session, model, on_event=on_event) as conversation:
                self.conversation = conversation
                self._has_model.set()
                while not self._exchanged:
                    await self._wait_for_change(session)
            if self._model is not model:
                self._discard(model)

    async def _wait_for_change(self, session: ConversationSession) -> None:
        """Wait for an exchange; meanwhile store what the session keeps in memory as soon as it can be."""
        if session.unsaved is None:
            await self._changed.wait()
            self._changed = anyio.Event()
            return
        with anyio.move_on_after(RETRY_SECONDS):
            await self._changed.wait()
        self._changed = anyio.Event()
        if await self._saved(session):
            self._on_news()

    async def _saved(self, session: ConversationSession) -> bool:
        if session.unsaved is None:
            return False
        try:
            await session.save()
        except NotStoredYet:
            return False
        except ChatError:
            # Another program changed the session: what it stored is what counts, and is on the path now.
            return True
        return True

    def _wake(self) -> None:
        self._changed.set()

    def _fail(self, error: ReportedError) -> None:
        self._failure = error if isinstance(error, LoadFailed) else LoadFailed(str(error))
        self._has_session.set()
        self._has_model.set()
        self._wake()
        self._on_news()

    def _exchange(self) -> None:
        """Have the engine run with what is open now."""
        if self.conversation is not None:
            self.conversation = None
            self._has_model = anyio.Event()
        self._exchanged = True
        self._wake()

    def _take(self, model: Backend, number: int) -> bool:
        """Answer with a model from now on; False, and it is closed, if a later request has one already."""
        if number < self._in_use:
            self._discard(model)
            return False
        self._in_use, self._model = number, model
        self._exchange()
        return True

    def _take_first(self, loading: Future[Backend]) -> None:
        error = loading.exception()
        if error is None:
            self._take(loading.result(), 0)
        elif self._model is None:
            self._fail(error if isinstance(error, ReportedError) else _start_error(error))

    def _take_when_loaded(self, loading: Future[Backend]) -> None:
        loop = asyncio.get_running_loop()

        def done(future: Future[Backend]) -> None:
            # Where the loop is closed, `close` closes the model.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._take_first, future)

        loading.add_done_callback(done)

    def _discard(self, model: Backend) -> None:
        self._open_models.remove(model)
        model.close()

    def _discard_loaded(self, loading: Future[Backend]) -> None:
        if loading.exception() is None:
            self._discard(loading.result())

    async def _open(self, store: Store, options: ChatOptions) -> ConversationSession:
        from niels_gpt.conversation.opening import session_for  # noqa: PLC0415 - heavy: the loader's thread was first

        session = session_for(store, options)
        if not await session.open():
            for key, value in options.defaults.items():
                if key not in options.settings:
                    await session.change(key, value)
            if options.system is None and options.default_system is not None:
                await session.set_system(options.default_system)
        return session

    def _load_model(self, options: ChatOptions) -> Backend:
        model = self._load_one(options)
        self._open_models.append(model)
        return model

    def _hear_progress(self, done: int, total: int) -> None:
        self.progress = (done, total)

    def _open_real_store(self, options: ChatOptions) -> Store:
        from niels_gpt.conversation import conversation  # noqa: F401, PLC0415 - needed next
        from niels_gpt.conversation.opening import open_store  # noqa: PLC0415 - heavy: belongs behind the prompt

        if not options.ephemeral:
            return open_store(options)
        # The store's guarantees need a file, so a chat that keeps nothing has one that nobody else can read.
        self._scratch = tempfile.TemporaryDirectory(prefix="niels-chat-")
        return open_store(replace(options, store=str(Path(self._scratch.name) / "sessions.db")))

    def _load_checkpoint(self, options: ChatOptions) -> Backend:
        from niels_gpt.conversation.opening import open_model  # noqa: PLC0415 - heavy: belongs behind the prompt

        loaded = open_model(options, on_progress=self._hear_progress)
        # A full garbage collection over all that was imported would stop every thread. None of it will ever
        # be garbage, so it is looked at no more.
        gc.freeze()
        return loaded


def with_latest(store: Store, options: ChatOptions) -> ChatOptions:
    """Return the options with the name of the session that was used last. LoadFailed if there is none."""
    session = store.last_used()
    if session is None:
        raise LoadFailed("there is no session to continue yet: niels-chat without --continue starts one")
    return replace(options, session=session.name)


def _settle(future: Future[T], step: Callable[[ChatOptions], T], options: ChatOptions) -> None:
    """Run a step of loading and give the future what came of it."""
    try:
        future.set_result(step(options))
    except BaseException as error:  # noqa: BLE001 - it is raised where the result is awaited
        future.set_exception(error)


async def _result(future: Future[T]) -> T:
    """Return what a thread loads. Raises LoadFailed."""
    try:
        # Shielded: a wait that is given up, by ctrl-c say, must not cancel the load itself.
        return await asyncio.shield(asyncio.wrap_future(future))
    except LoadFailed:
        raise
    except Exception as error:
        raise _start_error(error) from error


def _start_error(error: BaseException) -> LoadFailed:
    return LoadFailed(f"cannot start: {type(error).__name__}: {error}")
