"""Choose a session from a list: type to filter, arrows to move, Enter to select, Esc to cancel.

The list takes a few lines below the cursor and is gone afterwards. For asyncio; importing it imports
prompt-toolkit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prompt_toolkit.application import Application, get_app
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.layout import BufferControl, FormattedTextControl, HSplit, Layout, VSplit, Window
from prompt_toolkit.output import Output
from prompt_toolkit.styles import Style

from niels_gpt.terminal.line_wrapper import text_width
from niels_gpt.terminal.table import counted, cut, local_time, one_line, padded

if TYPE_CHECKING:
    from sessions import SessionSummary

_ROWS = 10  # sessions shown at once
_WIDE = 60  # minimum width to show date and size
_STYLE = Style.from_dict({"chosen": "reverse", "soft": "fg:ansibrightblack"})
_HINT = "type to filter, arrows and enter to choose, esc to leave"
# Esc also starts the sequences of longer keys, which follow at once.
_ESCAPE_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One session in the list: its name, date, number of turns and first words."""

    name: str
    detail: str
    words: str

    def has(self, word: str) -> bool:
        """Return whether a word of the filter, in lower case, occurs in the displayed text."""
        return word in f"{self.name} {self.detail} {self.words}".lower()


def choice_of(summary: SessionSummary) -> Choice:
    """Return the choice for one row of the list of sessions."""
    detail = f"{local_time(summary.last_used)} · {counted(summary.turns, 'turn')}"
    return Choice(name=summary.name, detail=detail, words=one_line(summary.first_words))


async def pick(
    choices: Sequence[Choice], *, source: Input | None = None, screen: Output | None = None
) -> str | None:
    """Return the name of the chosen session, or None if the user cancels.

    `choices` are shown in the given order. `source` and `screen` default to the terminal.
    """
    picker = _Picker(choices)
    application: Application[str | None] = Application(
        layout=picker.layout(),
        key_bindings=picker.keys(),
        style=_STYLE,
        erase_when_done=True,
        input=source,
        output=screen,
    )
    application.ttimeoutlen = application.timeoutlen = _ESCAPE_SECONDS
    return await application.run_async()


class _Picker:
    """The state of the picker: the filter, the matching choices and the marked one."""

    def __init__(self, choices: Sequence[Choice]) -> None:
        self._choices = choices
        self._left = list(choices)
        self._at = 0
        self._filter = Buffer(multiline=False, on_text_changed=self._narrow)

    def layout(self) -> Layout:
        """Return the filter's line, the list and a last line."""
        prompt = Window(FormattedTextControl("resume: "), width=8, dont_extend_width=True)
        typed = Window(BufferControl(self._filter), height=1)
        listed = Window(FormattedTextControl(self._rows), height=self._height)
        hint = Window(FormattedTextControl(self._hint), height=1)
        return Layout(HSplit([VSplit([prompt, typed], height=1), listed, hint]), focused_element=typed)

    def keys(self) -> KeyBindings:
        """Return the key bindings; all other keys edit the filter."""
        keys = KeyBindings()

        def leave(event: KeyPressEvent) -> None:
            event.app.exit(result=None)

        def take(event: KeyPressEvent) -> None:
            if self._left:
                event.app.exit(result=self._left[self._at].name)

        def by(step: int) -> Callable[[KeyPressEvent], None]:
            def move(event: KeyPressEvent) -> None:  # noqa: ARG001 - a binding's signature
                self._at = max(0, min(self._at + step, len(self._left) - 1))

            return move

        for names, action in (
            (("escape", "c-c", "c-d", "c-g"), leave),
            (("enter",), take),
            (("up", "c-p"), by(-1)),
            (("down", "c-n", "tab"), by(1)),
            (("pageup",), by(-_ROWS)),
            (("pagedown",), by(_ROWS)),
        ):
            for name in names:
                keys.add(name, eager=name == "escape")(action)
        return keys

    def _narrow(self, buffer: Buffer) -> None:
        words = buffer.text.lower().split()
        self._left = [each for each in self._choices if all(each.has(word) for word in words)]
        self._at = 0

    def _height(self) -> int:
        return max(1, min(len(self._left), _ROWS))

    def _rows(self) -> StyleAndTextTuples:
        if not self._left:
            return [("class:soft", "no session has that")]
        width = get_app().output.get_size().columns
        first = max(0, min(self._at - _ROWS // 2, len(self._left) - _ROWS))
        shown = self._left[first : first + _ROWS]
        names = max(text_width(one_line(each.name)) for each in shown)
        rows: StyleAndTextTuples = []
        for number, each in enumerate(shown, start=first):
            style = "class:chosen" if number == self._at else ""
            mark = "> " if number == self._at else "  "
            text = _row(each, min(names, width // 2), detailed=width >= _WIDE)
            rows += [(style, cut(mark + text, width)), ("", "\n")]
        return rows[:-1]

    def _hint(self) -> StyleAndTextTuples:
        width = get_app().output.get_size().columns
        count = f"{len(self._left):,} of {len(self._choices):,}"
        return [("class:soft", cut(f"{count} · {_HINT}", width))]


def _row(choice: Choice, names: int, *, detailed: bool) -> str:
    name = padded(cut(one_line(choice.name), names), names)
    return "  ".join([name, *([choice.detail] if detailed else []), choice.words])
