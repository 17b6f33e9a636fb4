"""Run one chat session, independent of where its lines come from: the REPL, a pipe, a test.

It introduces a session, finishes an interrupted reply, hands lines to commands or to the conversation, and
says how to resume. For asyncio.
"""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

from niels_gpt.chat.announcements import STOPPED, quoted, show_messages, who_answers, who_finishes
from niels_gpt.chat.commands.registry import COMMANDS, Call, Say, Unknown, parse
from niels_gpt.chat.stats import ChatStats, ReplyCost, status_line
from niels_gpt.conversation.errors import ChatError, LoadFailed
from niels_gpt.conversation.listener import Listener
from niels_gpt.conversation.settings import Value
from niels_gpt.conversation.workspace import Workspace
from niels_gpt.errors import ReportedError
from niels_gpt.program import as_started
from niels_gpt.terminal.render import Screen, spinning
from niels_gpt.terminal.table import counted
from niels_gpt.text.attachments import Attachment, with_attachments
from niels_gpt.text.files import NOT_UTF8, replaced

if TYPE_CHECKING:
    from engine import Event
    from niels_gpt.conversation.conversation import Conversation, TurnResult
    from niels_gpt.conversation.options import ChatOptions
    from niels_gpt.conversation.session import ConversationSession
    from niels_gpt.decoding.backend import Backend
    from sessions import Generation, Message, Store

_ENDINGS = {
    "length": "(stopped at {n} tokens; /max_new_tokens sets how many)",
    "context": "(stopped: the context is full; /reset starts a new conversation)",
}
_FORGOTTEN = "(stopped; the model will not see this turn: /keep_stopped is off)"
_NOT_SENT = "(not sent; Up brings it back)"
_STOPS = " | Esc stops"
_QUOTED = 40
_SAVING_SECONDS = 10.0


class Controller(Listener):
    """Hears the replies that it asks for. `serve` must run in a task next to everything else.

    Args:
        workspace: The store, the session and the model.
        screen: Where everything is printed.
        recall: Whether the last exchange is shown when a session is resumed.
        on_news: Called, on the event loop, when there is something to say before the next line: a session
            was opened, or loading failed.
        on_event: Hears the engine's events, in place of the screen that hears the replies' text.
        on_preference: Hears what changed in how the chat works.
        on_reply: Hears each reply when it has ended.
    """

    def __init__(
        self,
        workspace: Workspace,
        screen: Screen,
        *,
        recall: bool,
        on_news: Callable[[], None] = lambda: None,
        on_event: Callable[[Event], None] | None = None,
        on_preference: Callable[[str, Value], None] = lambda _key, _value: None,
        on_reply: Callable[[TurnResult], None] = lambda _: None,
    ) -> None:
        self._workspace = workspace
        self._screen = screen
        self._recall = recall
        self._on_news = on_news
        self._on_event = on_event
        self._on_preference = on_preference
        self._on_reply = on_reply
        options = workspace.options
        self._preferences: dict[str, Value] = {"markdown": False, "vi": options.vi}
        if options.markdown:
            self._preferences["markdown"] = screen.render_markdown(wanted=True)
        self._introduced: ConversationSession | None = None
        self._ready: ConversationSession | None = None
        self._warned: Backend | None = None
        self._compared: tuple[ConversationSession | None, Path] | None = None
        self._spent: list[ReplyCost] = []
        self._attached = list(options.attached)
        self._left_out = 0
        self._sending = False
        self._kept = False
        self._was_unsaved = False
        self.leaving = False
        self.troubled = False

    async def serve(self) -> None:
        """Load, then run the engine until cancelled; a failure to load comes out of `handle` and `greet`."""
        await self._workspace.serve(on_news=self._on_news, on_event=self._on_event or (lambda _: None))

    def welcome(self) -> None:
        """Say what this is and how to find out more, where no session says so."""
        options = self._workspace.options
        if options.session is None and not options.latest:
            self._screen.notice(
                f"niels-gpt: {options.checkpoint.name} answers, on this machine; "
                + ("nothing is kept" if options.ephemeral else "every conversation is kept")
            )
            self._screen.notice("type a message and Enter; /help lists the commands, Ctrl-D leaves")
        self.name_attached()

    def attach(self, attachment: Attachment) -> None:
        """Send a text along with the next message."""
        self._attached.append(attachment)

    async def handle(self, line: str) -> None:
        """Do what a line asks for. Raises LoadFailed; everything else that goes wrong is one line."""
        text, changed = replaced(line)
        if changed:
            self._screen.notice(NOT_UTF8.format(what="the line"))
        meaning = parse(text)
        self._sending = self._kept = False
        match meaning:
            case None:
                pass
            case Unknown():
                self.error(meaning.advice)
            case Call():
                await self._reporting(meaning.command.run(self, meaning.value))
            case Say():
                await self.send(meaning.text)

    async def send(self, text: str) -> None:
        """Send a message, whatever it looks like. Raises LoadFailed."""
        self._sending = True
        await self._reporting(self._send(text))

    async def greet(self) -> None:
        """Say what was resumed, and what became of a reply that waited for the store. Raises LoadFailed."""
        await self._reporting(self.open_session(early_line=False))
        session = self._workspace.session
        if self._was_unsaved and session is not None and session.unsaved is None:
            self._was_unsaved = False
            self._screen.notice("(the last reply is stored now)")

    def stopped(self) -> None:
        """Say that a line was cancelled; call it after a cancelled `handle`."""
        self._screen.end_reply()
        if self._sending and not self._kept:
            self._screen.notice(_NOT_SENT)
            return
        session = self._workspace.session
        kept = session is None or session.settings.keep_stopped
        self._screen.notice(STOPPED if kept else _FORGOTTEN)

    async def end(self) -> None:
        """Store what still waits for the store, and say how to resume, if there is something to resume."""
        trouble = await self._workspace.save_at_the_end(_SAVING_SECONDS)
        if trouble is not None:
            self.error(
                f"the last reply could not be stored ({trouble}); the session's next start makes it again"
            )
        session, options = self._workspace.session, self._workspace.options
        if session is not None and session.exists and session.name is not None and not options.ephemeral:
            words = options.resume_arguments(session.name)
            self._screen.notice(as_started(f"resume with: {shlex.join(words)}"), breakable=False)

    async def open_session(self, *, early_line: bool = True) -> ConversationSession:
        """Open the session: wait for it, introduce it, finish its interrupted reply, apply the flags.

        What was done for a session once is not done again. Raises LoadFailed.

        Args:
            early_line: Whether a line that waits for the session is on the screen already, if that is a
                terminal.
        """
        if not self._workspace.has_session:
            with spinning(self._screen, lambda: "opening the session"):
                await self._workspace.open_session()
        session = await self._workspace.open_session()
        if self._introduced is not session:
            store = self._workspace.store
            if self._introduced is None and store is not None and store.caution is not None:
                self._screen.notice(f"({store.caution})")
            self._introduced = session
            self._introduce(session, early_line=early_line and self._recall)
        if self._ready is not session:
            await self._finish_pending(session)
            await session.adopt()
            self._ready = session
        return session

    async def store(self) -> Store:
        """Return the store; waits while it opens. Raises LoadFailed."""
        await self.open_session()
        store = self._workspace.store
        if store is None:
            raise LoadFailed("the store did not open")
        return store

    async def conversation(self) -> Conversation:
        """Return the conversation with the model; waits while it loads. Raises LoadFailed."""
        session = await self.open_session()
        conversation = await self._load_conversation()
        await self._name_other_checkpoint(session, conversation)
        return conversation

    async def answer(self, work: Callable[[Conversation, Listener], Awaitable[TurnResult]]) -> TurnResult:
        """Have a reply generated and show it as it comes."""
        conversation = await self.conversation()
        with self.footer(), spinning(self._screen, lambda: "thinking"):
            return await work(conversation, self)

    @contextmanager
    def footer(self) -> Iterator[None]:
        """Keep the status line on the last line of the screen while a reply streams, on a terminal."""
        known = self.stats()

        def line(columns: int) -> str:
            return status_line(known, max(columns - len(_STOPS), 1)) + _STOPS

        with self._screen.footer(line) if self._recall else nullcontext():
            yield

    async def switch(self, session: str) -> None:
        """Continue with another session; ChatError leaves everything as it is."""
        await self._workspace.switch(session)
        self._spent.clear()
        self._left_out = 0

    async def use(self, checkpoint: Path) -> None:
        """Continue with another checkpoint; ChatError leaves everything as it is."""
        try:
            await self._workspace.use(checkpoint)
        except LoadFailed as error:
            # The first model is still loaded, so the chat continues.
            raise ChatError(str(error)) from error
        self._compared = (self._workspace.session, checkpoint)

    async def during(self, work: Awaitable[object], label: Callable[[], str]) -> None:
        """Wait for something that takes long, and show a label meanwhile."""
        with spinning(self._screen, label):
            await work

    def is_new(self) -> bool:
        """Return whether nothing was said in the session yet, as far as is known."""
        session = self._workspace.session
        return not self._spent and (session is None or not session.messages)

    def columns(self) -> int:
        """Return how wide a line may be."""
        return self._screen.columns

    def options(self) -> ChatOptions:
        """Return what the user asked for, as far as it still holds."""
        return self._workspace.options

    def stats(self) -> ChatStats:
        """Return what is known of session, model and replies."""
        session, conversation = self._workspace.session, self._workspace.conversation
        return ChatStats(
            session=self._workspace.options.session if session is None else session.name,
            checkpoint=self._workspace.options.checkpoint.name,
            settings=None if session is None else session.settings,
            context_length=None if conversation is None else conversation.model.context_length,
            used=None if conversation is None else conversation.used_tokens(),
            left_out=self._left_out,
            unsaved=session is not None and session.unsaved is not None,
            spent=tuple(self._spent),
        )

    def completions(self, command: str, prefix: str) -> list[str]:
        """Return what can stand after a command that begins as typed; may read the store."""
        known = COMMANDS[command]
        found = [example for example in known.examples if example.startswith(prefix)]
        return [*found, *known.complete(self._workspace.store, prefix)]

    def preference(self, key: str) -> Value:
        """Return how the chat looks or works now."""
        return self._preferences[key]

    def prefer(self, key: str, value: Value) -> None:
        """Change how the chat looks or works; ChatError where that cannot be."""
        if key == "markdown" and not self._screen.render_markdown(wanted=bool(value)) and value:
            raise ChatError("this terminal has no styles to show Markdown with, or NO_COLOR is set")
        self._preferences[key] = value
        self._on_preference(key, value)

    def say(self, text: str) -> None:
        """Print lines that were asked for."""
        self._screen.say(text)

    def say_difference(self, old: str, new: str) -> None:
        """Print where two texts differ, word by word."""
        from niels_gpt.replay.word_diff import parts, word_difference  # noqa: PLC0415 - few ask for it

        self._screen.say_parts(parts(word_difference(old, new), styled=self._screen.styled))

    def copy(self, text: str) -> str:
        """Copy a text to the clipboard, and return the way that it took. Raises NoClipboardError."""
        from niels_gpt.terminal.clipboard import copy_text  # noqa: PLC0415 - few ask for it

        return copy_text(text, sys.stdout)

    def show_path(self, messages: Sequence[Message]) -> None:
        """Print messages as the chat shows them."""
        show_messages(self._screen, messages)

    def error(self, text: str) -> None:
        """Print what went wrong with a line."""
        self.troubled = True
        self._screen.error(as_started(text))

    def leave(self) -> None:
        """End the chat after this line."""
        self.leaving = True

    def trimmed(self, turns: int) -> None:
        """Say which turns are left out of the prompt; from then on the status line counts them."""
        from niels_gpt.conversation.context import exchanges_of  # noqa: PLC0415 - where a reply begins, it is imported

        session = self._workspace.session
        keep_stopped = session is None or session.settings.keep_stopped
        known = exchanges_of(session.messages if session else (), keep_stopped=keep_stopped)
        name = "".join(repr(shorten(each.user, _QUOTED)) for each in known[turns - 1 : turns])
        what = f"turn {name} does not fit" if turns == 1 else f"{turns} turns do not fit, up to {name}"
        self._screen.notice(f"(the context is full: the oldest {what}, and more will follow)")

    def cut(self, tokens: int) -> None:
        """Say that the system prompt is cut."""
        self._screen.notice(
            f"(the system prompt does not fit: its first {counted(tokens, 'token')} are left out; "
            "/system TEXT sets a shorter one, and --system '' starts without)"
        )

    def restarted(self, generation: Generation) -> None:
        """Say that an interrupted reply is made from its start."""
        del generation
        self._screen.notice("(it cannot be finished as it was begun: this is another attempt)")

    def text(self, delta: str) -> None:
        """Show the next piece of a reply."""
        if self._on_event is None:
            self._screen.text(delta)

    def ended(self, result: TurnResult) -> None:
        """Finish the reply's last line, say how it ended, and count what it took."""
        self._kept = True
        self._left_out = result.trimmed_turns
        self._screen.end_reply()
        tokens = len(result.message.token_ids or ())
        self._spent.append(
            ReplyCost(reply_tokens=tokens, first_token=result.timings.first_token, total=result.timings.total)
        )
        self._on_reply(result)
        if result.reason in _ENDINGS:
            self._screen.notice(_ENDINGS[result.reason].format(n=tokens))
        session = self._workspace.session
        if session is not None and session.unsaved is not None:
            self._was_unsaved = True
            self.error(
                f"the reply is not stored yet ({session.unsaved}); it is kept and tried again, and the chat "
                "can be used meanwhile"
            )

    def name_attached(self) -> None:
        """Say what goes with the next message, if there is something."""
        if self._attached:
            self._screen.say(f"with your next message: {_names(self._attached)}")

    def drop_attached(self) -> int:
        """Attach nothing to the next message; return how many texts were."""
        count = len(self._attached)
        self._attached.clear()
        return count

    async def _send(self, text: str) -> None:
        attached, self._attached = self._attached, []
        if attached:
            self._screen.notice(f"(attached: {_names(attached)})")
        try:
            await self._send_whole(with_attachments(text, attached))
        except asyncio.CancelledError:
            if not self._kept:
                self._attached = attached
            raise

    async def _send_whole(self, text: str) -> None:
        was_introduced = self._introduced
        session = await self.open_session()
        if self._recall and self._introduced is not was_introduced and session.messages:
            # The line was typed before the session was there: it stands above what was said now.
            self._screen.say_asked(quoted(text), dim=True)
        await self.answer(lambda conversation, listener: conversation.send(text, listener))

    async def _reporting(self, work: Awaitable[object]) -> None:
        """Do the work of a line; an error is printed, unless the chat cannot continue."""
        try:
            await work
        except LoadFailed:
            raise
        except ReportedError as error:  # of the layers below, too
            self._screen.end_reply()
            self.error(str(error))

    async def _load_conversation(self) -> Conversation:
        if not self._workspace.has_model:
            with spinning(self._screen, self._workspace.loading):
                await self._workspace.open_conversation()
        conversation = await self._workspace.open_conversation()
        if self._warned is not conversation.model:
            self._warned = conversation.model
            if conversation.model.notice is not None:
                self._screen.notice(f"({conversation.model.notice})")
        return conversation

    async def _name_other_checkpoint(self, session: ConversationSession, conversation: Conversation) -> None:
        """Say so, once, when the replies so far were made elsewhere than the next one will be."""
        checkpoint = self._workspace.options.checkpoint
        if self._compared is None or self._compared[0] is not session:
            self._compared = (session, checkpoint)
            notice = await who_answers(session, conversation, checkpoint)
            if notice is not None:
                self._screen.notice(notice)

    def _introduce(self, session: ConversationSession, *, early_line: bool) -> None:
        options = self._workspace.options
        if options.session is None:
            return
        if not session.exists:
            new = f"new session {session.name!r}"
            # Behind a line it is a remark about it, like the others before a reply.
            self._screen.notice(f"({new})" if early_line else new)
            return
        self._screen.notice(f"resumed {session.name!r}: {counted(session.turns, 'turn')}")
        if self._recall:
            asked = [n for n, message in enumerate(session.messages) if message.role == "user"]
            show_messages(self._screen, session.messages[asked[-1] :] if asked else (), dim=True)

    async def _finish_pending(self, session: ConversationSession) -> None:
        turn = await session.pending()
        if turn is None:
            return
        conversation = await self._load_conversation()
        checkpoint = self._workspace.options.checkpoint
        notice, same = await who_finishes(session, conversation, checkpoint, turn)
        if not same:
            self._compared = (session, checkpoint)
        self._screen.notice(notice)
        try:
            with self.footer(), spinning(self._screen, lambda: "thinking"):
                await conversation.finish_pending(turn, self)
        except ReportedError as error:
            # The session can be used: the interrupted reply is stored as failed.
            self._screen.end_reply()
            self.error(f"the interrupted reply cannot be finished: {error}; /retry makes another")


def _names(attached: Sequence[Attachment]) -> str:
    return ", ".join(each.described for each in attached)
