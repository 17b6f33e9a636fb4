"""Break streamed text between words at the terminal's width, without waiting for a word's end.

A word is printed as it arrives. If it does not fit, it is erased and printed again on the next line. The
cursor position is only computed, so nothing is erased while it may be wrong: after a resize, or after
characters that terminals draw in different widths, until the next line.
"""

from __future__ import annotations

from collections.abc import Callable

_TAB = 8
# Joiners and the emoji style selector: terminals differ in whether they draw joined characters as one.
_UNSURE = frozenset("\N{ZERO WIDTH JOINER}\N{VARIATION SELECTOR-16}")


def width_of(character: str) -> int:
    """Return how many columns a printable character takes: 0, 1 or 2."""
    if character.isascii():
        return 1
    from wcwidth import wcwidth  # noqa: PLC0415 - one reply in a pipe needs none of its tables

    return max(0, wcwidth(character))


def text_width(text: str) -> int:
    """Return how many columns a line takes, the sum over its characters."""
    return len(text) if text.isascii() else sum(map(width_of, text))


def clipped(text: str, columns: int) -> str:
    """Return as much of the beginning of a line as fits into `columns`."""
    used = 0
    for index, character in enumerate(text):
        used += width_of(character)
        if used > columns:
            return text[:index]
    return text


class Wrapper:
    """Lays out one stream of text; `columns` returns the current width of the terminal.

    The last column stays free, because terminals differ in where they put the cursor after it. A word longer
    than a line is left to the terminal, which keeps it whole when it is copied.
    """

    def __init__(self, columns: Callable[[], int]) -> None:
        self._columns = columns
        self._width = 0
        self.column = 0
        self._style = ""
        self._sure = True
        self._out: list[str] = []
        self._begin_word()

    def feed(self, text: str) -> str:
        """Return what to print for the next piece of text."""
        self._look_at_width()
        for character in text:
            if character == "\n":
                self._new_line()
            elif character == "\t":
                self._tab()
            elif character == " ":
                self._blank()
            else:
                self._place(character, width_of(character))
        printed = "".join(self._out)
        self._out.clear()
        # Printed text can only be erased by moving the cursor.
        self._word_at = None
        self._word_printed = self._word_width
        return printed

    def style(self, sequence: str) -> str:
        """Return a sequence that changes the style from here on; a word that is moved keeps its style."""
        self._style = sequence
        self._word.append(sequence)
        return sequence

    def _look_at_width(self) -> None:
        width = max(2, self._columns())
        if width != self._width:
            if self.column:
                self._sure = False
                self.column %= width
                self._begin_word()
            self._width = width

    def _begin_word(self) -> None:
        self._word: list[str] = []
        self._word_width = 0
        self._word_style = self._style
        self._word_at: int | None = len(self._out)
        self._word_printed = 0

    def _new_line(self) -> None:
        self._out.append("\n")
        self.column = 0
        self._sure = True
        self._begin_word()

    def _tab(self) -> None:
        self._out.append("\t")
        self.column = min((self.column // _TAB + 1) * _TAB, self._width - 1)
        self._begin_word()

    def _blank(self) -> None:
        # At the edge a blank would begin the next line; the line break replaces it.
        if self.column < self._width - 1:
            self._out.append(" ")
            self.column += 1
        self._begin_word()

    def _place(self, character: str, width: int) -> None:
        if character in _UNSURE:
            self._sure = False
        if width and self.column + width > self._width - 1:
            self._break_line(width)
        self._out.append(character)
        self.column += width
        if self.column > self._width:  # the terminal has wrapped by itself
            self.column = width
        # A line may break on either side of a wide character, and a mark alone belongs to what is before it.
        if width == 2 or not (width or self._word_width):
            self._begin_word()
        else:
            self._word.append(character)
            self._word_width += width

    def _break_line(self, width: int) -> None:
        if width == 2 or not self._word_width:
            self._new_line()
        elif self._sure and self._word_width < self.column:
            self._move_word()

    def _move_word(self) -> None:
        """Begin a new line with the word so far."""
        if self._word_at is None:
            back = f"\x1b[{self._word_printed}D\x1b[K" if self._word_printed else ""
            # Nothing but this word was laid out since the last piece.
            self._out[:] = [back, "\n", self._word_style, *self._word]
            self._word_at = 1
        else:
            self._out.insert(self._word_at, "\n")
        self.column = self._word_width
