"""One chat from first line to last, whoever brings the lines: the REPL, a pipe, a test.

It greets a session, finishes an interrupted reply, hands lines to commands or to the conversation, and says
how to resume. For asyncio.
"""

from __future__ import annotations

import shlex
from collections.abc import Awaitable, Callable
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

import anyio

from niels_gpt.chat.commands.registry import COMMANDS, Call, Unknown, parse
from niels_gpt.chat.stats import ChatStats, ReplyCost
from niels_gpt.chat.workspace import Workspace
from niels_gpt.conversation.errors import ChatError, LoadFailed
from niels_gpt.conversation.loader import Loader
from niels_gpt.conversation.options import ChatOptions
from niels_gpt.conversation.settings import Value
from niels_gpt.errors import ReportedError
from niels_gpt.terminal.render import Screen
from niels_gpt.terminal.spinner import spinning
from niels_gpt.text.files import NOT_UTF8, replaced

if TYPE_CHECKING:
    from engine import Event
    from niels_gpt.conversation.conversation import Conversation, Listener, TurnResult
    from niels_gpt.conversation.session import ConversationSession
    from sessions import Store

_ENDINGS = {
    "length": "(stopped at {n} tokens; /max_tokens sets how many)",
    "context": "(stopped: the context is full; /reset begins anew)",
    "cancelled": "(stopped)",
}
_QUOTED = 40
_FORGOTTEN = "(stopped; the model will not see this turn: /keep_stopped is off)"


class Controller:
    """Satisfies command.Desk and conversation.Listener. `serve` must run in a task beside everything else.

    `recall` shows the last exchange when a session is resumed. `on_news` is called, on the event loop, when
    there is something to say before the next line: a session was opened, or loading failed. `on_event` hears
    the engine's events, in place of the screen that hears the replies' text. `on_preference` hears what
    changed in how the chat works.
    """

    def __init__(
        self,
        options: ChatOptions,
        loader: Loader,
        screen: Screen,
        *,
        recall: bool,
        on_news: Callable[[], None] = lambda: None,
        on_event: Callable[[Event], None] | None = None,
        on_preference: Callable[[str, Value], None] = lambda _key, _value: None,
    ) -> None:
        self._screen = screen
        self._recall = recall
        self._shows_text = on_event is None
        self._on_preference = on_preference
        self._opened = Workspace(options, loader, on_news=on_news, on_event=on_event or (lambda _: None))
        self._preferences: dict[str, Value] = {"markdown": False, "vi": options.vi}
        if options.markdown:
            self._preferences["markdown"] = screen.render_markdown(wanted=True)
        self._greeted: ConversationSession | None = None
        self._adopted: ConversationSession | None = None
        self._warned: object = None
        self._spent: list[ReplyCost] = []
        self.leaving = False
        self.troubled = False

    async def serve(self) -> None:
        """Load, then run the engine until cancelled; a failure to load comes out of `handle` and `greet`."""
        await self._opened.serve()

    async def handle(self, line: str) -> None:
        """Do what a line asks for. Raises LoadFailed; everything else that goes wrong is one line."""
        text, changed = replaced(line)
        if changed:
            self._screen.notice(NOT_UTF8.format(what="the line"))
        meaning = parse(text)
        match meaning:
            case None:
                pass
            case Unknown():
                self.error(f"{meaning.name} is no command: {meaning.advice}")
            case Call():
                await self._telling(meaning.command.run(self, meaning.value))
            case _:
                await self.send(meaning.text)

    async def send(self, text: str) -> None:
        """Send a message, whatever it looks like. Raises LoadFailed."""
        await self._telling(self.answer(lambda conversation, listener: conversation.send(text, listener)))

    async def greet(self) -> None:
        """Say what was resumed and finish an interrupted reply; the same happens before the first message."""
        await self._telling(self.record())

    def stopped(self) -> None:
        """Say that a reply was cancelled; call it after a cancelled `handle`."""
        self._screen.end_reply()
        record = self._opened.record
        kept = record is None or record.settings.keep_stopped
        self._screen.notice(_ENDINGS["cancelled"] if kept else _FORGOTTEN)

    def farewell(self) -> None:
        """Say how to go on, if there is something to go on with."""
        record, options = self._opened.record, self._opened.options
        if record is not None and record.exists and record.name is not None and not options.ephemeral:
            words = options.resume_arguments(record.name)
            self._screen.notice(f"resume with: {shlex.join(words)}", breakable=False)

    async def record(self) -> ConversationSession:
        """Return the open session, greeted and with what the flags gave; waits while it loads."""
        await self._wait(self._opened.has_session, lambda: "opening the session")
        record = self._opened.record
        if record is None:
            raise LoadFailed("the session did not open")
        if self._greeted is not record:
            if self._greeted is None and (caution := (await self._opened.store()).caution) is not None:
                self._screen.notice(f"({caution})")
            self._greeted = record
            self._introduce(record)
        if self._adopted is not record:
            await self._finish_pending(record)
            await record.adopt()
            self._adopted = record
        return record

    async def store(self) -> Store:
        """Return the store; waits while it loads."""
        await self._wait(self._opened.has_session, lambda: "opening the session")
        return await self._opened.store()

    async def conversation(self) -> Conversation:
        """Return the conversation with the model; waits while it loads."""
        await self.record()
        return await self._talk()

    async def answer(self, work: Callable[[Conversation, Listener], Awaitable[TurnResult]]) -> None:
        """Have a reply generated and show it as it comes."""
        conversation = await self.conversation()
        with spinning(self._screen, lambda: "thinking"):
            self._end(await work(conversation, self))

    async def switch(self, session: str) -> None:
        """Go on with another session; ChatError leaves everything as it is."""
        await self._opened.switch(session)
        self._spent.clear()

    async def use(self, checkpoint: Path) -> None:
        """Go on with another checkpoint; ChatError leaves everything as it is."""
        try:
            await self._opened.use(checkpoint)
        except LoadFailed as error:
            # The first model is still there: this is no reason to end.
            raise ChatError(str(error)) from error

    async def during(self, work: Awaitable[object], what: str) -> None:
        """Wait for something that takes long, and show so."""
        with spinning(self._screen, lambda: what):
            await work

    def columns(self) -> int:
        """Return how wide a line may be."""
        return self._screen.columns

    def options(self) -> ChatOptions:
        """Return what the user asked for, as far as it still holds."""
        return self._opened.options

    def facts(self) -> ChatStats:
        """Return what is known of session, model and replies."""
        record, conversation = self._opened.record, self._opened.conversation
        return ChatStats(
            session=self._opened.options.session if record is None else record.name,
            checkpoint=self._opened.options.checkpoint.name,
            settings=None if record is None else record.settings,
            context_length=None if conversation is None else conversation.model.context_length,
            spent=tuple(self._spent),
        )

    def completions(self, command: str, prefix: str) -> list[str]:
        """Return what can stand after a command that begins as typed."""
        known = COMMANDS[command]
        found = [example for example in known.examples if example.startswith(prefix)]
        return [*found, *known.complete(self._opened.loaded_store, prefix)]

    def preference(self, key: str) -> Value:
        """Return how the chat looks or works now."""
        return self._preferences[key]

    def prefer(self, key: str, value: Value) -> None:
        """Change how the chat looks or works; ChatError where that cannot be."""
        if key == "markdown" and not self._screen.render_markdown(wanted=bool(value)) and value:
            raise ChatError("this terminal has no styles to show Markdown with, or NO_COLOR is set")
        self._preferences[key] = value
        self._on_preference(key, value)

    def text(self, delta: str) -> None:
        """Show the next piece of a reply."""
        if self._shows_text:
            self._screen.text(delta)

    def trimmed(self, turns: int) -> None:
        """Say which turns were left out of the prompt: the oldest, up to the one that is quoted."""
        from niels_gpt.conversation.context import exchanges_of  # noqa: PLC0415 - where a reply begins, it is imported

        record = self._opened.record
        keep_stopped = record is None or record.settings.keep_stopped
        known = exchanges_of(record.messages if record else (), keep_stopped=keep_stopped)
        quoted = "".join(repr(shorten(each.user, _QUOTED)) for each in known[turns - 1 : turns])
        what = (
            f"turn {quoted} no longer fits" if turns == 1 else f"{turns} turns no longer fit, up to {quoted}"
        )
        self._screen.notice(f"(the context is full: the oldest {what})")

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

    async def _telling(self, work: Awaitable[object]) -> None:
        """Do the work of a line; what goes wrong with it is told, unless nothing can go on."""
        try:
            await work
        except LoadFailed:
            raise
        except ReportedError as error:  # of the layers below, too
            self._screen.end_reply()
            self.error(str(error))

    async def _talk(self) -> Conversation:
        await self._wait(self._opened.has_model, self._opened.loading)
        conversation = self._opened.conversation
        if conversation is None:
            raise LoadFailed("the model did not load")
        if self._warned is not conversation.model:
            self._warned = conversation.model
            if conversation.model.notice is not None:
                self._screen.notice(f"({conversation.model.notice})")
        return conversation

    async def _wait(self, event: anyio.Event, what: Callable[[], str]) -> None:
        if not event.is_set():
            with spinning(self._screen, what):
                await event.wait()
        self._opened.check()

    def _introduce(self, record: ConversationSession) -> None:
        if self._opened.options.session is None:
            return
        if not record.exists:
            self._screen.notice(f"new session {record.name!r}")
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

    async def _finish_pending(self, record: ConversationSession) -> None:
        turn = await record.pending()
        if turn is not None:
            conversation = await self._talk()
            self._screen.notice("(this reply was interrupted; finishing it)")
            with spinning(self._screen, lambda: "thinking"):
                self._end(await conversation.finish_pending(turn, self))

    def _end(self, reply: TurnResult) -> None:
        self._screen.end_reply()
        tokens = len(reply.message.token_ids or ())
        self._spent.append(
            ReplyCost(
                prompt_tokens=reply.prompt_tokens,
                reply_tokens=tokens,
                first_token=reply.timings.first_token,
                total=reply.timings.total,
            )
        )
        if reply.reason in _ENDINGS:
            self._screen.notice(_ENDINGS[reply.reason].format(n=tokens))
