"""How a line is edited: keys, completion, suggestions, the line at the bottom of the screen.

Enter sends. Alt-Enter and Ctrl-J start a new line, Ctrl-X Ctrl-E opens $EDITOR, Ctrl-R searches what was
typed before. A Controller tells what can be completed and shown.
"""

from __future__ import annotations

from collections.abc import Iterable

from prompt_toolkit import PromptSession
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.enums import EditingMode
from prompt_toolkit.filters import Condition, emacs_mode, vi_navigation_mode
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import History
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.key_binding.vi_state import InputMode
from prompt_toolkit.output import Output
from prompt_toolkit.styles import Style
from prompt_toolkit.utils import is_dumb_terminal

from niels_gpt.chat.commands.registry import COMMANDS, command_named
from niels_gpt.chat.controller import Controller
from niels_gpt.chat.stats import status_line
from niels_gpt.text.control_characters import harmless

PROMPT = FormattedText([("bold", "> ")])
_PLACEHOLDER = FormattedText([("class:placeholder", "Ask something, or /help")])
_STYLE = Style.from_dict(
    {
        # The user's lines in one colour, here and where they are shown again (terminal.render.ASKED).
        "": "ansicyan",
        "placeholder": "ansibrightblack",
        "bottom-toolbar": "noreverse ansidefault",
        "bottom-toolbar.text": "noreverse ansidefault",
    }
)
_MODES = {InputMode.NAVIGATION: "N", InputMode.REPLACE: "R", InputMode.INSERT: "I"}


class CommandCompleter(Completer):
    """Completes commands, and after one what its row of the registry offers."""

    def __init__(self, chat: Controller) -> None:
        self._chat = chat

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Yield what can stand at the cursor."""
        del complete_event
        text = document.text_before_cursor
        name, space, value = text.partition(" ")
        if not text.startswith("/"):
            return
        if not space:
            for command in COMMANDS.values():
                if command.name.startswith(name):
                    yield Completion(command.name, start_position=-len(name), display_meta=command.help)
        elif (meant := command_named(name)) is not None:
            for found in self._chat.completions(meant.name, value):
                yield Completion(found, start_position=-len(value), display=harmless(found))


def line_editor(
    chat: Controller, *, history: History, keyboard: Input | None, display: Output | None
) -> PromptSession[str | None]:
    """Return a prompt over `chat`; `keyboard` and `display` None: those of the current app session."""
    session: PromptSession[str | None] = PromptSession(
        PROMPT,
        prompt_continuation=lambda width, _number, _wrapped: " " * width,
        completer=CommandCompleter(chat),
        # Names of sessions are read from the store, which another program may have locked.
        complete_in_thread=True,
        # Without this the prompt keeps lines free for a menu that only commands have.
        complete_while_typing=Condition(lambda: session.default_buffer.text.startswith("/")),
        auto_suggest=AutoSuggestFromHistory(),
        history=history,
        key_bindings=_keys(),
        enable_suspend=True,
        vi_mode=bool(chat.preference("vi")),
        bottom_toolbar=lambda: harmless(_status(chat, session)),
        # Only before the first message, and not left standing behind a prompt that is done.
        placeholder=lambda: "" if session.app.is_done or not chat.is_new() else _PLACEHOLDER,
        style=_STYLE,
        input=keyboard,
        output=display,
    )
    return session


def _status(chat: Controller, session: PromptSession[str | None]) -> str:
    """Return the status line, with the mode first where the keys are those of vi."""
    mode = ""
    if session.editing_mode == EditingMode.VI:
        mode = f"[{_MODES.get(session.app.vi_state.input_mode, 'I')}] "
    return mode + status_line(chat.stats(), session.output.get_size().columns - 1 - len(mode))


def set_vi_mode(session: PromptSession[str | None], *, on: bool) -> None:
    """Edit with the keys of vi, or of emacs."""
    session.editing_mode = EditingMode.VI if on else EditingMode.EMACS


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("escape", "enter")
    def alt_enter(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    # Those that prompt-toolkit has would send the message when the editor is left.
    @keys.add("c-x", "c-e", filter=emacs_mode)
    @keys.add("v", filter=vi_navigation_mode)
    def open_editor(event: KeyPressEvent) -> None:
        event.current_buffer.open_in_editor(validate_and_handle=False)

    # A dumb terminal, Emacs say, ends its lines with a newline.
    @keys.add("c-j", filter=~Condition(is_dumb_terminal))
    def control_j(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    return keys
