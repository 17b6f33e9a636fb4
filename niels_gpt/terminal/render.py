"""Print streamed replies, and notices around them, on a terminal or on two streams.

Replies, messages and names are data: nothing in them may move the cursor, sound the bell, set the title or
reorder the line, even when an escape sequence is split over deltas.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TextIO

from niels_gpt.terminal.line_wrapper import Wrapper, clipped
from niels_gpt.terminal.markdown import Markdown, Styled
from niels_gpt.text.control_characters import Harmless, harmless

DIM, BOLD, PLAIN, _ERASE_LINE = "\x1b[2m", "\x1b[1m", "\x1b[0m", "\r\x1b[K"
ASKED = "\x1b[36m"  # cyan, as the prompt shows what is typed
_LEAST_ROWS = 6  # of a terminal that has room for a footer
_DOWN, _SAVE, _RESTORE, _WHOLE_SCREEN, _ERASE_BELOW = "\x1bD", "\x1b7", "\x1b8", "\x1b[r", "\x1b[J"
STEP_SECONDS = 0.1
"""The time between two frames of a spinner. A faster operation shows none, so nothing flickers."""
_FRAMES = "|/-\\"


def may_style(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether escape sequences may go to `stream`: a terminal that is not dumb, and no NO_COLOR."""
    return (
        stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM", "") not in {"dumb", "unknown"}
    )


def columns_of(stream: TextIO, environ: Mapping[str, str] = os.environ) -> Callable[[], int] | None:
    """Return a function for the terminal's current width, or None if `stream` is not a usable terminal."""
    if not stream.isatty() or environ.get("TERM", "") in {"dumb", "unknown"}:
        return None

    def columns() -> int:
        try:
            return os.get_terminal_size(stream.fileno()).columns or 80
        except OSError:  # it was closed
            return 80

    return columns


def _size(stream: TextIO) -> os.terminal_size | None:
    try:
        return os.get_terminal_size(stream.fileno())
    except (OSError, ValueError, AttributeError):
        return None


class Screen:
    """Writes replies to one stream and everything else to another; on a terminal both are the same.

    `styled` allows bold and dim. `columns` returns the width of the terminal that the notices go to, and is
    None if its cursor cannot be moved; then no line is broken and nothing is shown that has to be erased.
    `quiet` suppresses notices, `only_replies` also the answers of commands; errors are always printed.
    """

    def __init__(
        self,
        replies: TextIO,
        notices: TextIO,
        *,
        styled: bool,
        columns: Callable[[], int] | None = None,
        quiet: bool = False,
        only_replies: bool = False,
    ) -> None:
        self._replies = replies
        self._notices = notices
        self._styled = styled
        self._columns = columns
        self._quiet = quiet or only_replies
        self._only_replies = only_replies
        self._harmless = Harmless()
        self._wrapper = Wrapper(columns) if columns is not None and replies is notices else None
        self._markdown: Markdown | None = None
        self._line_open = False
        self._waiting = False
        self._busy = False
        self._footer: tuple[Callable[[int], str], os.terminal_size] | None = None

    @property
    def columns(self) -> int:
        """The maximum width of a line of a notice; 80 if unknown."""
        return 80 if self._columns is None else self._columns()

    def render_markdown(self, *, wanted: bool) -> bool:
        """Show Markdown as styles from the next reply on; return False if the terminal has no styles."""
        possible = self._styled and self._wrapper is not None
        self._markdown = Markdown() if wanted and possible else None
        return possible

    def text(self, delta: str) -> None:
        """Print the next piece of a reply at once."""
        self._reply(self._harmless.feed(delta))

    def end_reply(self) -> None:
        """Finish the reply's last line."""
        self._reply(self._harmless.finish())
        if self._markdown is not None:
            self._write(self._laid_out(self._markdown.finish()))
        self._close_line()

    def notice(self, text: str, *, breakable: bool = True) -> None:
        """Print whole lines that are not part of a reply; a command to copy should not be broken."""
        if not self._quiet:
            self._lines(harmless(text), DIM, breakable=breakable)

    def say(self, text: str) -> None:
        """Print whole lines that the user requested, not dimmed."""
        if not self._only_replies:
            self._lines(harmless(text), "")

    def say_asked(self, text: str, *, dim: bool = False) -> None:
        """Print a message of the user, in the colour of what is typed."""
        if not (self._quiet if dim else self._only_replies):
            self._lines(harmless(text), ASKED + DIM if dim else ASKED)

    def say_reply(self, text: str, *, dim: bool = False) -> None:
        """Print an earlier reply: as a reply if replies have styles, else as lines."""
        if self._markdown is not None:
            self.text(text)
            self.end_reply()
        elif dim:
            self.notice(text)
        else:
            self.say(text)

    def say_parts(self, parts: Iterable[tuple[str, str]]) -> None:
        """Print lines that the user requested, in parts that each have a style, or "" for none."""
        if self._only_replies:
            return
        wrapper = None if self._columns is None else Wrapper(self._columns)
        lines: list[str] = []
        for text, style in parts:
            safe = harmless(text) if wrapper is None else wrapper.feed(harmless(text))
            lines.append("\n".join(self._in_style(line, style) for line in safe.split("\n")))
        self._take_back()
        self._notices.write("".join(lines) + "\n")
        self._notices.flush()

    @property
    def styled(self) -> bool:
        """Whether text can have styles."""
        return self._styled

    def error(self, text: str) -> None:
        """Print an error in one line."""
        self._lines(harmless(" ".join(text.split())), BOLD)

    def wait(self) -> None:
        """Allow `busy` to show a line until a reply's text or `idle`."""
        self._waiting = self._columns is not None and not self._quiet and not self._line_open

    def busy(self, text: str) -> bool:
        """Show or replace a line that stays until other output; return False when not waiting."""
        if self._waiting and self._columns is not None:
            self._follow_resize()
            line = clipped(harmless(text), self._columns() - 1)
            self._notices.write(_ERASE_LINE + self._in_style(line, DIM))
            self._notices.flush()
            self._busy = True
        return self._waiting

    def idle(self) -> None:
        """Erase the busy line, and show no further ones."""
        self._waiting = False
        self._take_back()

    @contextmanager
    def footer(self, text: Callable[[int], str]) -> Iterator[None]:
        """Keep a line at the bottom of the terminal during the block; everything else scrolls above it.

        `text` returns the line for a number of columns: it is drawn again after a resize.
        """
        size = None if self._columns is None or not self._styled else _size(self._notices)
        if size is None or size.lines < _LEAST_ROWS or self._quiet:
            yield
            return
        self._footer = (text, size)
        self.draw_footer()
        try:
            yield
        finally:
            self.erase_footer()
            self._footer = None

    def draw_footer(self) -> None:
        """Draw the footer at the bottom of the terminal as it is now, if there is one."""
        if self._footer is not None:
            text, before = self._footer
            size = _size(self._notices) or before
            self._footer = (text, size)
            line = self._in_style(clipped(harmless(text(size.columns - 1)), size.columns - 1), DIM)
            # One line up and down again: at the bottom that makes room.
            self._notices.write(
                f"{_DOWN}\x1b[A{_SAVE}\x1b[1;{size.lines - 1}r\x1b[{size.lines};1H\x1b[2K{line}{_RESTORE}"
            )
            self._notices.flush()

    def erase_footer(self) -> None:
        """Erase the footer, if there is one."""
        if self._footer is not None:
            # Wherever a resize has moved it, below the cursor there is nothing else.
            self._notices.write(f"{_SAVE}{_WHOLE_SCREEN}{_RESTORE}{_ERASE_BELOW}")
            self._notices.flush()

    def _follow_resize(self) -> None:
        """Draw the footer again if the terminal has another size than when it was drawn."""
        if self._footer is not None and _size(self._notices) not in {None, self._footer[1]}:
            self.erase_footer()
            self.draw_footer()

    def _take_back(self) -> None:
        if self._busy:
            self._busy = False
            self._notices.write(_ERASE_LINE)
            self._notices.flush()

    def _reply(self, text: str) -> None:
        if text:
            pieces = [Styled(text=text)] if self._markdown is None else self._markdown.feed(text)
            self._write(self._laid_out(pieces))

    def _laid_out(self, pieces: Iterable[Styled]) -> str:
        lay, mark = (str, str) if self._wrapper is None else (self._wrapper.feed, self._wrapper.style)
        return "".join(mark(each.sequence) if each.sequence else lay(each.text) for each in pieces)

    def _write(self, text: str) -> None:
        if not text:
            return
        self.idle()
        self._follow_resize()
        self._replies.write(text)
        self._replies.flush()
        self._line_open = not text.endswith("\n") if self._wrapper is None else self._wrapper.column > 0

    def _close_line(self) -> None:
        if self._line_open:
            self._write("\n" if self._wrapper is None else self._wrapper.feed("\n"))

    def _lines(self, text: str, style: str, *, breakable: bool = True) -> None:
        self._take_back()
        self._follow_resize()
        # Complete the line of a reply that was cut in mid-line; on a separate stream it is left unchanged.
        if self._replies is self._notices:
            self._close_line()
        if self._columns is not None and breakable:
            text = Wrapper(self._columns).feed(text)
        for line in text.split("\n"):
            self._notices.write(self._in_style(line, style) + "\n")
        self._notices.flush()

    def _in_style(self, line: str, style: str) -> str:
        return f"{style}{line}{PLAIN}" if self._styled and style and line else line


@contextmanager
def spinning(screen: Screen, label: Callable[[], str]) -> Iterator[None]:
    """Show `label()` with a spinner while the block runs, or until a reply's first text is printed.

    For asyncio: a timer of the loop redraws it, so nothing has to be awaited and no task can fail.
    """
    loop = asyncio.get_running_loop()
    frames = itertools.cycle(_FRAMES)

    def turn() -> None:
        nonlocal timer
        if screen.busy(f"{next(frames)} {label()}"):
            timer = loop.call_later(STEP_SECONDS, turn)

    screen.wait()
    timer = loop.call_later(STEP_SECONDS, turn)
    try:
        yield
    finally:
        timer.cancel()
        screen.idle()
