"""What reaches the terminal: replies as they stream, notices dim, control characters made harmless.

Replies, messages and names are data. Nothing in them may move the cursor, ring the bell, set the title or
reorder the line, even when an escape sequence is split over deltas. Knows no store, engine or prompt.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Mapping
from typing import TextIO

DIM, BOLD, PLAIN, _ERASE_LINE = "\x1b[2m", "\x1b[1m", "\x1b[0m", "\r\x1b[K"
_PASS = frozenset("\n\t")
_REORDERING = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})


def _harmless_character(character: str) -> str:
    if character in _PASS:
        return character
    category = unicodedata.category(character)
    if category == "Cc":
        code = ord(character)
        # The pictures of C0 and DEL in Unicode; C1 has none.
        return chr(0x2400 + code) if code < 0x20 else "␡" if code == 0x7F else f"\\x{code:02x}"
    if category in {"Zl", "Zp"} or unicodedata.bidirectional(character) in _REORDERING:
        return f"\\u{ord(character):04x}"
    return "\N{REPLACEMENT CHARACTER}" if category == "Cs" else character


class Harmless:
    """Makes streamed text safe to print, piece by piece.

    Tabs and newlines pass; every other control character becomes a visible stand-in. No escape sequence
    survives a split, because its characters are replaced one by one. A carriage return waits for its
    newline: alone it would overwrite the line.
    """

    def __init__(self) -> None:
        self._held = ""

    def feed(self, delta: str) -> str:
        """Return what of the text so far can be printed now."""
        text = (self._held + delta).replace("\r\n", "\n")
        self._held = "\r" if text.endswith("\r") else ""
        text = text.removesuffix("\r") if self._held else text
        return text if text.isascii() and text.isprintable() else "".join(map(_harmless_character, text))

    def finish(self) -> str:
        """Return what was held back, and begin anew."""
        held, self._held = self._held, ""
        return "".join(map(_harmless_character, held))


def harmless(text: str) -> str:
    """Return a whole text, safe to print."""
    filtered = Harmless()
    return filtered.feed(text) + filtered.finish()


def may_style(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether escape sequences may go to `stream`: a terminal that is not dumb, and no NO_COLOR."""
    return (
        stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM", "") not in {"dumb", "unknown"}
    )


class Screen:
    """Writes replies to one stream and everything else to another; on a terminal both are the same.

    Satisfies conversation.Listener.
    """

    def __init__(self, replies: TextIO, notices: TextIO, *, styled: bool) -> None:
        self._replies = replies
        self._notices = notices
        self._styled = styled
        self._harmless = Harmless()
        self._line_open = False
        self._busy = False

    def text(self, delta: str) -> None:
        """Print the next piece of a reply at once."""
        self._write(self._harmless.feed(delta))

    def end_reply(self) -> None:
        """Finish the reply's last line."""
        self._write(self._harmless.finish())
        self._close_line()

    def trimmed(self, turns: int) -> None:
        """Say that old turns were left out of the prompt."""
        self.notice(f"({turns} oldest {'turn no longer fits' if turns == 1 else 'turns no longer fit'})")

    def notice(self, text: str) -> None:
        """Print whole lines that are not a reply."""
        self._lines(harmless(text), DIM)

    def say(self, text: str) -> None:
        """Print whole lines that were asked for, not dimmed."""
        self._lines(harmless(text), "")

    def error(self, text: str) -> None:
        """Print what went wrong, in one line."""
        self._lines(harmless(" ".join(text.split())), BOLD)

    def busy(self, text: str) -> None:
        """Show a line that lasts until something else is printed; only where it can be taken back."""
        if self._styled and not self._line_open:
            self.idle()
            self._notices.write(f"{DIM}{harmless(text)}{PLAIN}")
            self._notices.flush()
            self._busy = True

    def idle(self) -> None:
        """Take the busy line back."""
        if self._busy:
            self._busy = False
            self._notices.write(_ERASE_LINE)
            self._notices.flush()

    def _write(self, text: str) -> None:
        if not text:
            return
        self.idle()
        self._replies.write(text)
        self._replies.flush()
        self._line_open = not text.endswith("\n")

    def _close_line(self) -> None:
        if self._line_open:
            self._write("\n")

    def _lines(self, text: str, style: str) -> None:
        self.idle()
        # A reply cut in mid-line keeps its line to itself; on a stream of its own it is left as it is.
        if self._replies is self._notices:
            self._close_line()
        for line in text.split("\n"):
            styled = f"{style}{line}{PLAIN}" if self._styled and style and line else line
            self._notices.write(styled + "\n")
        self._notices.flush()
