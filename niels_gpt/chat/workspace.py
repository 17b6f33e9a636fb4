"""What is open: a session and a model, loaded behind the prompt, exchanged on request, served by an engine.

One session and one model at a time; `switch` and `use` exchange them between two lines. For asyncio.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from niels_gpt.chat.session_selection import with_latest
from niels_gpt.conversation.errors import ChatError, LoadFailed, SessionTrouble
from niels_gpt.conversation.loader import Loader
from niels_gpt.conversation.options import ChatOptions, check_checkpoint

if TYPE_CHECKING:
    from engine import Event
    from niels_gpt.conversation.conversation import ChatModel, Conversation
    from niels_gpt.conversation.session import ConversationSession
    from sessions import Store


class Workspace:
    """Loads and serves. `serve` must run beside everything else, in a task of its own.

    `on_news` is called, on the event loop, when the session or a failure is there; `on_event` hears every
    event of every reply.
    """

    def __init__(
        self,
        options: ChatOptions,
        loader: Loader,
        *,
        on_news: Callable[[], None],
        on_event: Callable[[Event], None],
    ) -> None:
        self.options = options
        """What was asked for, as far as it still holds: `/model` and `/resume` change it."""
        self._loader = loader
        self._on_news = on_news
        self._on_event = on_event
        self.has_session = anyio.Event()
        self.has_model = anyio.Event()
        self._exchanged = anyio.Event()
        self._failure: LoadFailed | None = None
        self._store: Store | None = None
        self._record: ConversationSession | None = None
        self._model: ChatModel | None = None
        self._conversation: Conversation | None = None

    async def serve(self) -> None:
        """Load, then run the engine until cancelled; a failure comes out of `session` and `conversation`."""
        try:
            self._store = await self._loader.store()
            if self.options.latest:
                self.options = await anyio.to_thread.run_sync(with_latest, self._store, self.options)
            self._record = await self._open(self._store, self.options)
            self.has_session.set()
            if self.options.session is not None:
                self._on_news()
            self._model = await self._loader.model()
        except ChatError as error:
            self._failure = error if isinstance(error, LoadFailed) else LoadFailed(str(error))
            self.has_session.set()
            self.has_model.set()
            self._on_news()
            return
        from niels_gpt.conversation.conversation import converse  # noqa: PLC0415 - imported by the loader's thread

        while True:
            model, self._exchanged = self._model, anyio.Event()
            async with converse(self._record, model, on_event=self._on_event) as conversation:
                self._conversation = conversation
                self.has_model.set()
                await self._exchanged.wait()
            if self._model is not model:
                self._loader.release(model)

    @property
    def record(self) -> ConversationSession | None:
        """The open session, None while it opens."""
        return self._record

    @property
    def conversation(self) -> Conversation | None:
        """The conversation of session and model, None while one of them loads."""
        return self._conversation

    def check(self) -> None:
        """Raise LoadFailed if something could not be loaded."""
        if self._failure is not None:
            raise self._failure

    @property
    def loaded_store(self) -> Store | None:
        """The store, None while it loads."""
        return self._store

    async def store(self) -> Store:
        """Return the store; LoadFailed."""
        return await self._loader.store()

    def loading(self) -> str:
        """Return what takes so long."""
        if self._loader.progress is None:
            return "loading the model"
        done, total = self._loader.progress
        return f"preparing the kernels for this processor (once): {done} of {total}"

    async def switch(self, name: str) -> None:
        """Go on with another session, which must exist; SessionTrouble leaves everything as it is."""
        options = replace(self.options, session=name, settings={}, system=None)
        record = await self._open(await self._loader.store(), options)
        if not record.exists:
            raise SessionTrouble(f"there is no session {name!r}: /sessions lists them")
        self.options, self._record = options, record
        self._restart()

    async def use(self, checkpoint: Path) -> None:
        """Go on with another checkpoint; LoadFailed leaves everything as it is."""
        options = replace(self.options, checkpoint=checkpoint, checkpoint_given=True)
        check_checkpoint(options)
        self._model = await self._loader.another(options)
        self.options = options
        self._restart()

    async def _open(self, store: Store, options: ChatOptions) -> ConversationSession:
        from niels_gpt.conversation.session import new_record  # noqa: PLC0415 - heavy: the loader's thread was first

        record = new_record(store, options)
        if not await record.open():
            for key, value in options.defaults.items():
                if key not in options.settings:
                    await record.change(key, value)
            if options.system is None and options.default_system is not None:
                await record.set_system(options.default_system)
        return record

    def _restart(self) -> None:
        """Have the engine run with what is open now."""
        if self._conversation is not None:
            self._conversation = None
            self.has_model = anyio.Event()
            self._exchanged.set()
