"""Show a reply's Markdown as styles while it streams: headings, bold, italic, code spans, fenced blocks.

It never waits for a closing mark, only for the character after one that may open; a mark that is never closed
ends with its line. Everything else is passed on as it is. The text must be safe to print already.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_BLOCK = re.compile(
    r"^ {0,3}(?P<fence>`{3,}|~{3,})[^\n`]*\n(?P<code>.*?)(?:^ {0,3}(?P=fence)|\Z)", re.M | re.S
)
_MARKS = frozenset("*`#")
_FENCE = "```"


@dataclass(frozen=True)
class Styled:
    """A piece of a reply: text to lay out, or the sequence that changes the style of what follows."""

    text: str = ""
    sequence: str = ""


def first_code_block(text: str) -> str | None:
    """Return the content of the first fenced block of a text, None without one."""
    found = _BLOCK.search(text)
    return None if found is None else found["code"]


class Markdown:
    """Turns one reply into styled pieces. `feed` as it comes, `finish` at its end."""

    def __init__(self) -> None:
        self._begin()

    def feed(self, text: str) -> Iterator[Styled]:
        """Yield the pieces of the text so far that can be shown."""
        plain: list[str] = []
        for character in text:
            for piece in self._take(character):
                if piece.sequence and plain:
                    yield Styled(text="".join(plain))
                    plain.clear()
                if piece.sequence:
                    yield piece
                else:
                    plain.append(piece.text)
        if plain:
            yield Styled(text="".join(plain))

    def finish(self) -> Iterator[Styled]:
        """Yield the text that was held back, and reset the state."""
        yield from self._settle_run("\n")
        changed = self._sequence() != _sequence()
        self._begin()
        if changed:
            yield Styled(sequence=self._sequence())

    def _begin(self) -> None:
        self._run = ""
        self._before = "\n"
        self._indent_only = True
        self._in_fence = False
        self._fence_line = False
        self._heading = self._bold = self._italic = self._code = False

    def _take(self, character: str) -> Iterator[Styled]:
        if self._run and character == self._run[0]:
            self._run += character
            return
        yield from self._settle_run(character)
        if character == "\n":
            yield from self._end_line()
        elif self._may_mark(character):
            self._run = character
        elif not (self._heading and self._before == "#" and character == " "):
            yield Styled(text=character)
        if not self._run:
            self._before = character
            self._indent_only = character == "\n" or (self._indent_only and character == " ")

    def _may_mark(self, character: str) -> bool:
        if self._in_fence or self._fence_line:
            return character == "`" and self._indent_only
        if self._code:
            return character == "`"
        return character in _MARKS and (character != "#" or self._indent_only)

    def _settle_run(self, following: str) -> Iterator[Styled]:
        """Interpret the held marks, now that the next character is known."""
        run, self._run = self._run, ""
        if not run:
            return
        old = self._sequence()
        literal = not self._applies(run, following)
        if self._sequence() != old:
            yield Styled(sequence=self._sequence())
        if literal:
            yield Styled(text=run)
        self._before = run[-1]
        self._indent_only = False

    def _applies(self, run: str, following: str) -> bool:
        """Update the state for the marks; return False if they are only text."""
        if run[0] == "#":
            self._heading = len(run) <= 6 and following == " "
            return self._heading
        if run[0] == "`":
            return self._applies_ticks(run)
        if len(run) > 3:
            return False
        # A single star inside of a word is a multiplication sign more often than a style.
        inside = len(run) == 1
        opens = not following.isspace() and not (inside and self._before.isalnum())
        closes = not self._before.isspace() and not (inside and following.isalnum())
        bold, italic = len(run) >= 2, len(run) != 2
        if (bold and not (closes if self._bold else opens)) or (
            italic and not (closes if self._italic else opens)
        ):
            return False
        self._bold ^= bold
        self._italic ^= italic
        return True

    def _applies_ticks(self, run: str) -> bool:
        if self._indent_only and len(run) >= len(_FENCE):
            self._in_fence = not self._in_fence
            self._fence_line = True
            return False  # the fence is shown, because it marks the end of the code and its language
        if self._in_fence or len(run) != 1:
            return False
        self._code = not self._code
        return True

    def _end_line(self) -> Iterator[Styled]:
        old = self._sequence()
        self._heading = self._bold = self._italic = self._code = self._fence_line = False
        if self._sequence() != old:
            yield Styled(sequence=self._sequence())
        yield Styled(text="\n")

    def _sequence(self) -> str:
        return _sequence(
            bold=self._bold or self._heading,
            italic=self._italic,
            code=self._code or self._in_fence or self._fence_line,
        )


def _sequence(*, bold: bool = False, italic: bool = False, code: bool = False) -> str:
    codes = ["0", *(["1"] if bold else []), *(["3"] if italic else []), *(["36"] if code else [])]
    return f"\x1b[{';'.join(codes)}m"
