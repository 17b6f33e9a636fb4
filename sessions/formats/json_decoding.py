"""Decode foreign JSON strictly: bounded numbers and nesting, no repeated fields, one value at a time."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import NoReturn, TextIO, cast

from sessions.formats.errors import ImportRefused, quoted

CHUNK = 1 << 16  # bytes or characters of a first read
BLANK = " \t\r\n"
_DIGITS = 40  # digits of a whole number; far fewer than would be slow to parse
_LONGEST_WORD = 16  # characters of a literal or an escape that may be cut at the end of the window


class JsonWindow:
    """Reads a text file through a window that grows to hold one value and drops consumed text."""

    def __init__(self, file: TextIO, *, name: str, longest: int) -> None:
        """Read values from an open file.

        Args:
            file: The file, at its beginning.
            name: Its name in error messages.
            longest: The most characters that a value may have.

        """
        self._file = file
        self._name = name
        self._longest = longest
        self._decoder = strict_decoder()
        self._text = ""
        self._at = 0
        self._ended = False

    def peek(self) -> str:
        """Return the next nonblank character without consuming it; "" at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in BLANK:
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._grow(CHUNK, self._name):
                return ""

    def skip(self, expected: str) -> None:
        """Consume one expected character."""
        if (found := self.peek()) != expected:
            what = (
                f"has {found!r} where {expected!r} is expected"
                if found
                else "ends in the middle of its array"
            )
            raise ImportRefused(self._name, "", what)
        self._at += 1

    def decode(self, where: str) -> object:
        """Consume one JSON object; the window grows until it holds all of it."""
        if (found := self.peek()) != "{":
            raise ImportRefused(where, "", f"begins with {found!r}: expected an object")
        while True:
            try:
                value, self._at = self._decoder.raw_decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                have = len(self._text) - self._at
                if have > self._longest:
                    what = f"is longer than {self._longest:,} characters, or is not JSON"
                    raise ImportRefused(where, "", what) from error
                # Each attempt starts over: few of them, so that a long value is not decoded ten times.
                more = min(7 * have, self._longest - have)
                if not (self._may_be_cut(error) and self._grow(max(more, CHUNK), where)):
                    raise not_json(where, error) from error
            else:
                return cast("object", value)

    def _may_be_cut(self, error: Exception) -> bool:
        """Return whether a parse error may only be caused by the end of the window."""
        if not isinstance(error, json.JSONDecodeError):
            return False
        return error.msg.startswith("Unterminated") or error.pos + _LONGEST_WORD >= len(self._text)

    def _grow(self, most: int, where: str) -> bool:
        if self._ended:
            return False
        more = _read(self._file, where, most)
        self._ended = not more
        self._text = self._text[self._at :] + more
        self._at = 0
        return bool(more)


def _read(file: TextIO, where: str, most: int) -> str:
    try:
        return file.read(most)
    except UnicodeDecodeError as error:
        raise ImportRefused(where, "", f"is not UTF-8 ({error.reason})") from error
    except OSError as error:
        raise ImportRefused(where, "", f"cannot be read ({error.strerror})") from error


def strict_decoder() -> json.JSONDecoder:
    """Return a decoder that refuses what is not JSON, endless numbers and repeated fields (ValueError)."""
    return json.JSONDecoder(
        parse_constant=_no_number,
        parse_float=_finite,
        parse_int=_whole,
        object_pairs_hook=_without_duplicates,
    )


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _whole(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"a number has {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:20]} is too large")
    return number


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"the field {quoted(twice)} is there twice")
    return found


def not_json(where: str, error: ValueError | RecursionError) -> ImportRefused:
    """Return the error, not raised, about a place whose text a strict decoder refused."""
    if isinstance(error, RecursionError):
        return ImportRefused(where, "", "is nested too deeply")
    what = (
        f"{error.msg} at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else str(error)
    )
    return ImportRefused(where, "", f"is not whole JSON ({what})")


def require_shallow(where: str, value: object, *, nesting: int) -> None:
    """Raise ImportRefused for a value that is nested more than this many levels deep."""
    level: list[object] = [value]
    for _ in range(nesting):
        level = [inner for each in level for inner in _children(each)]
        if not level:
            return
    raise ImportRefused(where, "", f"is nested more than {nesting} levels deep")


def _children(value: object) -> list[object]:
    if isinstance(value, dict):
        return list(cast("dict[str, object]", value).values())
    return cast("list[object]", value) if isinstance(value, list) else []
