"""Read a foreign file piece by piece: JSON lines, JSON objects over several lines, or one JSON array.

At most one record is in memory. A record that is too long is refused before it is read completely, and one
that is nested too deeply before it is processed.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NoReturn, TextIO, TypeVar, cast

from sessions.formats.errors import ImportRefused, quoted
from sessions.formats.field_validation import Fields
from sessions.formats.limits import Limits

_CHUNK = 1 << 16
_LINE_CHUNK = 1 << 20  # a line of 32 MB is put together from 32 of them
_BLANK_LINES = re.compile(rb"(?:[ \t\r]*\n)+")
_HEAD = 1 << 14
_DIGITS = 40  # digits of a whole number; far fewer than would be slow to parse
_LONGEST_WORD = 16  # characters of a literal or an escape that may be cut at the end of the window
_BLANK = " \t\r\n"
T = TypeVar("T")


class Source:
    """A file to import, with the counts of content left out and the pieces that could not be read.

    Attributes:
        now: The time to use for times that are missing in the file.
        left_out: The counts of content left out, by kind, such as 2 hidden messages.
        skipped: The errors of the pieces that could not be read and were skipped.

    """

    def __init__(
        self,
        path: Path,
        *,
        limits: Limits | None = None,
        name: str | None = None,
        strict: bool = False,
        skip_bad: bool = False,
    ) -> None:
        """Open and check the file.

        Args:
            path: The file.
            limits: The limits on its size and content.
            name: Its name in error messages; None for the name of the file.
            strict: Refuse a file if something would be left out.
            skip_bad: Skip a piece that cannot be read (a line, a session) and import the rest.

        Raises:
            ImportRefused: The file cannot be opened, or is too large.

        """
        self.path = path
        self.name = name or path.name
        self.limits = limits or Limits()
        self.now = datetime.now(UTC)
        self.left_out: Counter[str] = Counter()
        self.skipped: list[ImportRefused] = []
        self._strict = strict
        self._skips_bad = skip_bad
        try:
            if not path.is_file():
                raise ImportRefused(
                    self.name, "", "no such file" if not path.exists() else "is not a regular file"
                )
            size = path.stat().st_size
            with path.open("rb") as file:
                self.head = file.read(_HEAD)
        except OSError as error:
            raise ImportRefused(self.name, "", f"cannot be read ({error.strerror})") from error
        if size > self.limits.file_bytes:
            what = f"has {size:,} bytes: expected at most {self.limits.file_bytes:,}"
            raise ImportRefused(self.name, "", what)

    def leave_out(self, kind: str, count: int = 1, *, where: str = "") -> None:
        """Count content that is left out; refuse the file if `strict` is set.

        Args:
            kind: The kind of content, in the plural: "hidden messages".
            count: How many.
            where: The place in the file, for the error message.

        """
        if count and self._strict:
            raise ImportRefused(where or self.name, "", f"{kind} would be left out")
        self.left_out[kind] += count

    def attempt(self, read: Callable[[], T]) -> T | None:
        """Return the result of `read`, or None for a piece that cannot be read and may be skipped."""
        try:
            return read()
        except ImportRefused as error:
            self.skip(error)
            return None

    def skip(self, error: ImportRefused) -> None:
        """Record the error of a skipped piece; raise it if nothing may be skipped."""
        if not self._skips_bad:
            raise error
        self.skipped.append(error)

    def lines(self) -> Iterator[Fields]:
        """Yield the object of each line; blank lines are left out."""
        for number, line in self._raw_lines():
            fields = self.attempt(partial(self._line, number, line))
            if fields is not None:
                yield fields

    def _line(self, number: int, line: bytes) -> Fields:
        return line_fields(line, where=f"{self.name}, line {number}", limits=self.limits)

    def _raw_lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield the number and the bytes of each line that is not blank; a line that is too long is cut."""
        longest = self.limits.record_bytes + 1
        number, rest, is_cut = 0, b"", False
        for chunk in self._chunks():
            rest += chunk
            at = 0
            while True:
                if blank := _BLANK_LINES.match(rest, at):
                    number += rest.count(b"\n", at, blank.end())
                    at = blank.end()
                end = rest.find(b"\n", at)
                if end < 0:
                    break
                number += 1
                if not is_cut:
                    yield number, rest[at:end]
                is_cut, at = False, end + 1
            rest = rest[at:]
            if len(rest) >= longest:
                if not is_cut:
                    yield number + 1, rest
                rest, is_cut = b"", True
        if rest.strip() and not is_cut:
            yield number + 1, rest

    def _chunks(self) -> Iterator[bytes]:
        """Yield the file's bytes without a byte order mark; the pieces grow, so that a long line is cheap."""
        try:
            with self.path.open("rb") as file:
                chunk = file.read(_CHUNK).removeprefix(codecs.BOM_UTF8)
                while chunk:
                    yield chunk
                    chunk = file.read(_LINE_CHUNK)
        except OSError as error:
            raise ImportRefused(self.name, "", f"cannot be read ({error.strerror})") from error

    def records(self) -> Iterator[Fields]:
        """Yield the elements of the file's one JSON array, or each of its objects.

        Objects are on one line each, or span several lines.
        """
        if self.is_array():
            yield from self._values(in_array=True)
        elif self._is_indented():
            yield from self._values(in_array=False)
        else:
            yield from self.lines()

    def _is_indented(self) -> bool:
        """Return whether the first object continues after the end of its line."""
        lines = self._raw_lines()
        text = next(lines, (0, b""))[1].decode("utf-8", errors="replace").strip(_BLANK)
        try:
            _decoder().decode(text)
        except json.JSONDecodeError as error:
            return error.pos >= len(text) and next(lines, None) is not None
        except (ValueError, RecursionError):
            return False
        return False

    def is_array(self) -> bool:
        """Return whether the file holds one JSON array."""
        return self._begins_with(b"[")

    def looks_like_json(self) -> bool:
        """Return whether the file begins like a JSON object or an array of objects."""
        return self._begins_with(b"{", b"[")

    def _begins_with(self, *beginnings: bytes) -> bool:
        return self.head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(beginnings)

    def _opened(self) -> TextIO:
        # utf-8-sig: a byte order mark at the beginning is not part of the text.
        return self.path.open(encoding="utf-8-sig", errors="strict", newline="\n")

    def _values(self, *, in_array: bool) -> Iterator[Fields]:
        decoder = _decoder()
        kind, ends = ("element", {"]", ""}) if in_array else ("object", {""})
        with self._opened() as file:
            reader = _Window(self, file)
            if in_array:
                reader.skip("[")
            number = 0
            while reader.peek() not in ends:
                number += 1
                where = f"{self.name}, {kind} {number}"
                if in_array and number > 1:
                    reader.skip(",")
                value = reader.decode(decoder, where)
                fields = self.attempt(partial(self._element, where, value))
                if fields is not None:
                    yield fields
            if in_array:
                reader.skip("]")
                if reader.peek():
                    raise ImportRefused(self.name, "", f"has {reader.peek()!r} after the end of its array")

    def _element(self, where: str, value: object) -> Fields:
        return _fields(where, value, self.limits)


class _Window:
    """Reads a text file through a window that grows to hold one value and drops consumed text."""

    def __init__(self, source: Source, file: TextIO) -> None:
        self._source = source
        self._file = file
        self._text = ""
        self._at = 0
        self._ended = False

    def peek(self) -> str:
        """Return the next nonblank character without consuming it; "" at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _BLANK:
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._grow(_CHUNK, self._source.name):
                return ""

    def skip(self, expected: str) -> None:
        """Consume one expected character."""
        if (found := self.peek()) != expected:
            what = (
                f"has {found!r} where {expected!r} is expected"
                if found
                else "ends in the middle of its array"
            )
            raise ImportRefused(self._source.name, "", what)
        self._at += 1

    def decode(self, decoder: json.JSONDecoder, where: str) -> object:
        """Consume one JSON object; the window grows until it holds all of it."""
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
                # Each attempt starts over: few of them, so that a long value is not decoded ten times.
                more = min(7 * have, self._source.limits.record_bytes - have)
                if not (self._may_be_cut(error) and self._grow(max(more, _CHUNK), where)):
                    raise _no_json(where, error) from error
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


def line_fields(line: bytes, *, where: str, limits: Limits) -> Fields:
    """Return the object of one line of JSON.

    Args:
        line: The line; its end is optional.
        where: The place in the file, for error messages.
        limits: The limits on its length and nesting.

    Raises:
        ImportRefused: The line is too long, not UTF-8, or does not hold one JSON object.

    """
    if len(line) > limits.record_bytes:
        raise ImportRefused(where, "", f"is longer than {limits.record_bytes:,} bytes")
    try:
        value = _decoder().decode(line.decode("utf-8").strip(_BLANK))
    except UnicodeDecodeError as error:
        raise ImportRefused(where, "", f"is not UTF-8 ({error.reason})") from error
    except (ValueError, RecursionError) as error:
        raise _no_json(where, error) from error
    return _fields(where, value, limits)


def _fields(where: str, value: object, limits: Limits) -> Fields:
    """Return an object that is not nested too deeply."""
    level: list[object] = [value]
    for _ in range(limits.nesting):
        level = [inner for each in level for inner in _children(each)]
        if not level:
            break
    else:
        raise ImportRefused(where, "", f"is nested more than {limits.nesting} levels deep")
    if not isinstance(value, dict):
        raise ImportRefused(where, "", f"{quoted(value)} is not a JSON object")  # pyright: ignore[reportUnknownArgumentType]
    return Fields(where=where, values=cast("dict[str, object]", value), limits=limits)


def _read(file: TextIO, where: str, most: int) -> str:
    try:
        return file.read(most)
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
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"the field {quoted(twice)} is there twice")
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
