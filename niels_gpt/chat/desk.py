"""One chat from first line to last, whoever brings the lines: the REPL, a pipe, a test.

It opens the session, finishes an interrupted reply, hands lines to commands or to the conversation, and
says how to resume. Knows no keys and no prompt; imports nothing heavy. For asyncio.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING

import anyio

from niels_gpt.chat.commands import Call, Unknown, parse
from niels_gpt.chat.errors import ChatError, LoadFailed
from niels_gpt.chat.loader import Loader
from niels_gpt.chat.options import Options
from niels_gpt.chat.render import Screen
from niels_gpt.chat.spinner import spinning

if TYPE_CHECKING:
    from niels_gpt.chat.conversation import Conversation, Reply
    from niels_gpt.chat.record import Record

_ENDINGS = {
    "length": "(stopped at {n} tokens; /max_tokens sets how many)",
    "context": "(stopped: the context is full; /reset begins anew)",
    "cancelled": "(stopped)",
}


class Desk:
    """Satisfies commands.Desk. `serve` must run beside everything else, in a task of its own.

    `recall` shows the last exchange when a session is resumed. `on_news` is called, on the event loop, when
    there is something to say before the next line: a session was opened, or loading failed.
    """

    def __init__(
        self,
        options: Options,
        loader: Loader,
        screen: Screen,
        *,
        recall: bool,
        on_news: Callable[[], None] = lambda: None,
    ) -> None:
        self._options = options
        self._loader = loader
        self._screen = screen
        self._recall = recall
        self._on_news = on_news
        self._opened = anyio.Event()
        self._loaded = anyio.Event()
        self._failure: LoadFailed | None = None
        self._record: Record | None = None
        self._conversation: Conversation | None = None
        self._model_notice: str | None = None
        self._introduced = False
        self._adopted = False
        self.leaving = False
        self.troubled = False

    async def serve(self) -> None:
        """Load, then run the engine until cancelled; a failure to load comes out of `handle` and `greet`."""
        try:
            store = await self._loader.store()
            from niels_gpt.chat.record import new_record  # noqa: PLC0415 - imported by the loader's thread

            record = new_record(store, self._options)
            await record.open()
            self._record = record
            self._opened.set()
            if self._options.session is not None:
                self._on_news()
            model = await self._loader.model()
            self._model_notice = model.notice
            from niels_gpt.chat.conversation import converse  # noqa: PLC0415
        except ChatError as error:
            self._failure = error if isinstance(error, LoadFailed) else LoadFailed(str(error))
            self._opened.set()
            self._loaded.set()
            self._on_news()
            return
        async with converse(record, model) as conversation:
            self._conversation = conversation
            self._loaded.set()
            await anyio.sleep_forever()

    async def handle(self, line: str) -> None:
        """Do what a line asks for. Raises LoadFailed; everything else that goes wrong is one line."""
        meaning = parse(line)
        try:
            match meaning:
                case None:
                    pass
                case Unknown():
                    self.error(f"{meaning.name} is no command: {meaning.advice}")
                case Call():
                    await meaning.command.run(self, meaning.value)
                case _:
                    conversation = await self._ready()
                    with spinning(self._screen, lambda: "thinking"):
                        self._end(await conversation.send(meaning.text, self._screen))
        except LoadFailed:
            raise
        except ChatError as error:
            self._screen.end_reply()
            self.error(str(error))

    async def greet(self) -> None:
        """Say what was resumed and finish an interrupted reply; the same happens before the first message."""
        try:
            await self.record()
        except LoadFailed:
            raise
        except ChatError as error:
            self.error(str(error))

    def stopped(self) -> None:
        """Say that a reply was cancelled; call it after a cancelled `handle`."""
        self._screen.end_reply()
        self._screen.notice(_ENDINGS["cancelled"])

    def farewell(self) -> None:
        """Say how to go on, if there is something to go on with."""
        if self._record is not None and self._record.exists and self._record.name is not None:
            words = self._options.resume_arguments(self._record.name)
            self._screen.notice(f"resume with: {shlex.join(words)}")

    async def record(self) -> Record:
        """Return the open session, greeted and with what the flags gave; waits while it loads."""
        await self._wait(self._opened, lambda: "opening the session")
        record = self._record
        if record is None:
            raise LoadFailed("the session did not open")
        if not self._introduced:
            self._introduced = True
            self._introduce(record)
        if not self._adopted:
            await self._finish_pending(record)
            await record.adopt()
            self._adopted = True
        return record

    def say(self, text: str) -> None:
        """Print lines that were asked for."""
        self._screen.say(text)

    def error(self, text: str) -> None:
        """Print what went wrong with a line."""
        self.troubled = True
        self._screen.error(text)

    def leave(self) -> None:
        """End the chat after this line."""
        self.leaving = True

    async def _ready(self) -> Conversation:
        await self.record()
        return await self._talk()

    async def _talk(self) -> Conversation:
        await self._wait(self._loaded, self._loading)
        if self._conversation is None:
            raise LoadFailed("the model did not load")
        if self._model_notice is not None:
            self._screen.notice(f"({self._model_notice})")
            self._model_notice = None
        return self._conversation

    def _loading(self) -> str:
        if self._loader.progress is None:
            return "loading the model"
        done, total = self._loader.progress
        return f"preparing the kernels for this processor (once): {done} of {total}"

    async def _wait(self, event: anyio.Event, what: Callable[[], str]) -> None:
        if not event.is_set():
            with spinning(self._screen, what):
                await event.wait()
        if self._failure is not None:
            raise self._failure

    def _introduce(self, record: Record) -> None:
        if self._options.session is None:
            return
        if not record.exists:
            self._screen.notice(f"new session {self._options.session!r}")
            return
        count = len(record.messages)
        self._screen.notice(f"resumed {record.name!r}: {count} message{'' if count == 1 else 's'}")
        if self._recall:
            asked = max(
                (n for n, message in enumerate(record.messages) if message.role == "user"), default=count
            )
            for message in record.messages[asked:]:
                if message.role != "system":
                    self._screen.notice(("> " if message.role == "user" else "") + message.content)

    async def _finish_pending(self, record: Record) -> None:
        turn = await record.pending()
        if turn is not None:
            conversation = await self._talk()
            self._screen.notice("(this reply was interrupted; finishing it)")
            with spinning(self._screen, lambda: "thinking"):
                self._end(await conversation.finish_pending(turn, self._screen))

    def _end(self, reply: Reply) -> None:
        self._screen.end_reply()
        if reply.reason in _ENDINGS:
            self._screen.notice(_ENDINGS[reply.reason].format(n=len(reply.message.token_ids or ())))
