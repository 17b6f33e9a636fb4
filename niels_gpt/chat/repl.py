"""The interactive chat: a prompt, then a line's whole life in raw mode, then the next prompt.

Nothing is printed while a prompt is active. News (a session was opened, loading failed) takes the prompt
down, is printed, and puts it back with what was typed. For asyncio, as prompt-toolkit is.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Coroutine
from textwrap import shorten
from typing import Any

import anyio
from prompt_toolkit import PromptSession
from prompt_toolkit.application import create_app_session
from prompt_toolkit.document import Document
from prompt_toolkit.history import History, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.input.typeahead import get_typeahead, store_typeahead
from prompt_toolkit.keys import Keys
from prompt_toolkit.output import Output
from prompt_toolkit.output.plain_text import PlainTextOutput
from prompt_toolkit.utils import is_dumb_terminal

from niels_gpt.chat.controller import Controller
from niels_gpt.chat.history import open_history
from niels_gpt.chat.interrupt_keys import keys_of, listening
from niels_gpt.chat.line_editor import line_editor, set_vi_mode
from niels_gpt.chat.signals import ending_on_signals
from niels_gpt.cli.exit_codes import OK
from niels_gpt.conversation.errors import LoadFailed
from niels_gpt.conversation.settings import Value
from niels_gpt.conversation.workspace import Workspace
from niels_gpt.terminal.render import Screen

_QUOTED = 40  # characters of a line that is named in a notice


class Repl:
    """One interactive chat.

    Args:
        workspace: What answers.
        screen: Where everything is printed.
        history: What was typed in chats before.
        typed: The bytes that were typed before the prompt.
        keyboard: Where keys come from; None: the terminal of the process.
        display: Where prompts are drawn; None: the terminal of the process.
    """

    def __init__(
        self,
        workspace: Workspace,
        screen: Screen,
        *,
        history: History,
        typed: bytes = b"",
        keyboard: Input | None = None,
        display: Output | None = None,
    ) -> None:
        self._workspace = workspace
        self._screen = screen
        self._chat = Controller(
            workspace,
            screen,
            recall=True,
            on_news=self._interrupt_prompt,
            on_preference=self._take_preference,
        )
        self._history = history
        self._keyboard = keyboard
        self._display = display
        self._prompt_session = self._new_prompt()
        if typed:
            store_typeahead(self._prompt_session.input, keys_of(typed))
        self._typed = Document()
        self._news = False

    async def run(self) -> int:
        """Chat until the user leaves or a signal asks to; return the exit status. Raises LoadFailed."""
        failure: LoadFailed | None = None
        status: int | None = None
        async with anyio.create_task_group() as tasks:
            with ending_on_signals(tasks.cancel_scope) as ending:
                tasks.start_soon(self._chat.serve)
                # Caught inside, because a task group would wrap it.
                try:
                    await self._read_lines()
                except LoadFailed as error:
                    failure = error
                finally:
                    status = ending.status
                tasks.cancel_scope.cancel()
        # A terminal that hung up takes no farewell.
        with contextlib.nullcontext() if status is None else contextlib.suppress(OSError):
            self._name_unsent()
            await self._chat.end()
        if failure is not None:
            raise failure
        return OK if status is None else status

    async def _read_lines(self) -> None:
        self._chat.welcome()
        while not self._chat.leaving:
            try:
                line = await self._prompt()
            except EOFError:
                return
            except KeyboardInterrupt:
                # Ctrl-C first of all clears the line.
                if not self._prompt_session.default_buffer.text:
                    self._screen.notice("(Ctrl-D or /exit leaves)")
                continue
            if line is None:
                await self._attend(self._chat.greet)
            else:
                await self._attend(lambda line=line: self._chat.handle(line))

    async def _prompt(self) -> str | None:
        """Return a line, or None when there is news to tell first."""
        if self._news:
            self._news = False
            return None
        if self._display is None and is_dumb_terminal():
            # Its prompts are never rendered, and a session used twice would echo every key twice.
            self._prompt_session = self._new_prompt()
            self._workspace.start()
        typed, self._typed = self._typed, Document()
        try:
            return await self._prompt_session.prompt_async(default=typed, handle_sigint=False)
        finally:
            self._prompt_session.app.erase_when_done = False

    async def _attend(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do the work of one line; ctrl-c or Esc cancels it and comes back to the prompt."""
        screen = self._screen
        with (
            anyio.CancelScope() as scope,
            listening(
                self._prompt_session.input,
                scope.cancel,
                before_suspend=screen.erase_footer,
                after_suspend=screen.draw_footer,
            ),
        ):
            await work()
        if scope.cancelled_caught:
            self._chat.stopped()

    def _name_unsent(self) -> None:
        """Name the lines that were typed behind the end of the chat: the shell does not get them either."""
        texts = {Keys.ControlM: "\r", Keys.ControlJ: "\r"}
        pressed = get_typeahead(self._prompt_session.input)
        typed = "".join(
            press.data if press.key == Keys.BracketedPaste else texts.get(press.key, "")
            if isinstance(press.key, Keys) else press.key
            for press in pressed
        )  # fmt: skip
        if lines := [shorten(line, _QUOTED) for line in typed.split("\r") if line.strip()]:
            self._screen.notice(f"(typed ahead and not sent: {', '.join(map(repr, lines))})")

    def _interrupt_prompt(self) -> None:
        """Come out of an active prompt to tell the news; without one, the next prompt waits for it."""
        app = self._prompt_session.app
        if app.is_running and app.future is not None and not app.future.done():
            self._typed = self._prompt_session.default_buffer.document
            app.erase_when_done = True
            app.exit(result=None)
        else:
            self._news = True

    def _take_preference(self, key: str, value: Value) -> None:
        if key == "vi":
            set_vi_mode(self._prompt_session, on=bool(value))

    def _new_prompt(self) -> PromptSession[str | None]:
        prompt = line_editor(
            self._chat, history=self._history, keyboard=self._keyboard, display=self._display
        )
        # Importing torch holds the interpreter for long stretches: it begins after the prompt is drawn.
        prompt.app.after_render += lambda _: self._workspace.start()
        return prompt


def run_on_terminal(workspace: Workspace, screen: Screen, typed: bytes) -> int:
    """Chat on the terminal of the process until the user leaves; return the status. Raises LoadFailed."""
    # prompt-toolkit sends a dumb terminal a sequence to show its cursor.
    plain = PlainTextOutput(sys.stdout) if is_dumb_terminal() else None
    # What is typed into a chat that keeps nothing is kept nowhere.
    history = InMemoryHistory() if workspace.options.ephemeral else open_history()
    with create_app_session(output=plain):
        return asyncio.run(Repl(workspace, screen, history=history, typed=typed).run())
