"""A file from elsewhere, read piece by piece: JSON lines, or the elements of one JSON array.

Never more than one record is in memory. A record that is too long is refused before it is read whole, one
that is nested too deeply before anything looks into it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn, TextIO, cast

from sessions.formats.errors import ImportRefused, quoted
from sessions.formats.field_validation import Fields
from sessions.formats.limits import Limits

_CHUNK = 1 << 16
_HEAD = 1 << 14
_DIGITS = 40  # of a whole number; far below where reading one becomes slow
_LONGEST_WORD = 16  # characters of a literal or an escape that the end of the window can cut
_BLANK = " \t\r\n"


class Source:
    """A file to import. ``now`` stands for moments that the file does not tell."""

    def __init__(self, path: Path, *, limits: Limits | None = None, name: str | None = None) -> None:
        """Look at the file; ``name`` is what errors call it. Raises ImportRefused."""
        self.path = path
        self.name = name or path.name
        self.limits = limits or Limits()
        self.now = datetime.now(UTC)
        try:
            if not path.is_file():
                raise ImportRefused(self.name, "", "is not there" if not path.exists() else "is not a file")
            size = path.stat().st_size
            with path.open("rb") as file:
                self.head = file.read(_HEAD)
        except OSError as error:
            raise ImportRefused(self.name, "", f"cannot be read ({error.strerror})") from error
        if size > self.limits.file_bytes:
            what = f"has {size:,} bytes: expected at most {self.limits.file_bytes:,}"
            raise ImportRefused(self.name, "", what)

    def lines(self) -> Iterator[Fields]:
        """Yield the object of each line; blank lines are left out."""
        most = self.limits.record_bytes
        with self._opened() as file:
            number = 0
            while True:
                number += 1
                where = f"{self.name}, line {number}"
                line = _read(file, where, most + 1, whole_line=True)
                if not line:
                    return
                if len(line) > most:
                    raise ImportRefused(where, "", f"is longer than {most:,} characters")
                if line.strip(_BLANK):
                    yield self._fields(where, self._parsed(where, line))

    def records(self) -> Iterator[Fields]:
        """Yield the elements of the file's one JSON array, or else the object of each line."""
        if self.is_array():
            yield from self._elements()
        else:
            yield from self.lines()

    def is_array(self) -> bool:
        """Return whether the file holds one JSON array."""
        return self._begins_with(b"[")

    def looks_like_json(self) -> bool:
        """Return whether the file begins as JSON objects do, or an array of them."""
        return self._begins_with(b"{", b"[")

    def _begins_with(self, *beginnings: bytes) -> bool:
        return self.head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(beginnings)

    def _opened(self) -> TextIO:
        # utf-8-sig: a byte order mark at the beginning is no text.
        return self.path.open(encoding="utf-8-sig", errors="strict", newline="\n")

    def _elements(self) -> Iterator[Fields]:
        decoder = _decoder()
        with self._opened() as file:
            reader = _Window(self, file)
            reader.skip("[")
            number = 0
            while reader.peek() not in {"]", ""}:
                number += 1
                where = f"{self.name}, element {number}"
                if number > 1:
                    reader.skip(",")
                value = reader.decode(decoder, where)
                yield self._fields(where, self._shallow(where, value))
            reader.skip("]")
            if reader.peek():
                raise ImportRefused(self.name, "", f"goes on after its array with {reader.peek()!r}")

    def _parsed(self, where: str, text: str) -> object:
        try:
            value = _decoder().decode(text.strip(_BLANK))
        except (ValueError, RecursionError) as error:
            raise _no_json(where, error) from error
        return self._shallow(where, value)

    def _shallow(self, where: str, value: object) -> object:
        """Return the value if it is not nested too deeply."""
        level: list[object] = [value]
        for _ in range(self.limits.nesting):
            level = [inner for each in level for inner in _children(each)]
            if not level:
                return value
        raise ImportRefused(where, "", f"is nested more than {self.limits.nesting} levels deep")

    def _fields(self, where: str, value: object) -> Fields:
        if not isinstance(value, dict):
            raise ImportRefused(where, "", f"{quoted(value)} is not a JSON object")  # pyright: ignore[reportUnknownArgumentType]
        return Fields(where=where, values=cast("dict[str, object]", value), limits=self.limits)


class _Window:
    """A text file through a window that grows to hold one value and forgets what was taken from it."""

    def __init__(self, source: Source, file: TextIO) -> None:
        self._source = source
        self._file = file
        self._text = ""
        self._at = 0
        self._ended = False

    def peek(self) -> str:
        """Return the next character that is not blank, without taking it; "" at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _BLANK:
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._grow(_CHUNK, self._source.name):
                return ""

    def skip(self, expected: str) -> None:
        """Take one character that must be there."""
        if (found := self.peek()) != expected:
            what = (
                f"has {found!r} where {expected!r} is expected" if found else "ends in the midst of its array"
            )
            raise ImportRefused(self._source.name, "", what)
        self._at += 1

    def decode(self, decoder: json.JSONDecoder, where: str) -> object:
        """Take one JSON object; the window doubles until it holds all of it."""
        if (found := self.peek()) != "{":
            raise ImportRefused(where, "", f"begins with {found!r}: expected an object")
        while True:
            try:
                value, self._at = decoder.raw_decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                have = len(self._text) - self._at
                if have > self._source.limits.record_bytes:
                    most = f"{self._source.limits.record_bytes:,}"
                    raise ImportRefused(where, "", f"is longer than {most} characters, or no JSON") from error
                if not (self._may_be_cut(error) and self._grow(max(have, _CHUNK), where)):
                    raise _no_json(where, error) from error
            else:
                return cast("object", value)

    def _may_be_cut(self, error: Exception) -> bool:
        """Return whether what looks wrong may only go on beyond the window."""
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


def _read(file: TextIO, where: str, most: int, *, whole_line: bool = False) -> str:
    try:
        return file.readline(most) if whole_line else file.read(most)
    except UnicodeDecodeError as error:
        raise ImportRefused(where, "", f"is not UTF-8 ({error.reason})") from error
    except OSError as error:
        raise ImportRefused(where, "", f"cannot be read ({error.strerror})") from error


def _decoder() -> json.JSONDecoder:
    return json.JSONDecoder(
        parse_constant=_no_number,
        parse_float=_finite,
        parse_int=_whole,
        object_pairs_hook=_without_duplicates,
    )


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


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
    found: dict[str, object] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the field {quoted(name)} is there twice")
        found[name] = value
    return found


def _children(value: object) -> list[object]:
    if isinstance(value, dict):
        return list(cast("dict[str, object]", value).values())
    return cast("list[object]", value) if isinstance(value, list) else []


def _no_json(where: str, error: ValueError | RecursionError) -> ImportRefused:
    if isinstance(error, RecursionError):
        return ImportRefused(where, "", "is nested too deeply")
    what = (
        f"{error.msg} at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else str(error)
    )
    return ImportRefused(where, "", f"is not whole JSON ({what})")
