"""Read a foreign file piece by piece: JSON lines, JSON objects over several lines, or one JSON array.

At most one record is in memory. A record that is too long is refused before it is read completely, and one
that is nested too deeply before it is processed.
"""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TextIO, TypeVar, cast

from sessions.formats.errors import ImportRefused, quoted
from sessions.formats.field_validation import Fields
from sessions.formats.json_decoding import (
    BLANK,
    CHUNK,
    JsonWindow,
    not_json,
    require_shallow,
    strict_decoder,
)
from sessions.formats.limits import Limits

_LINE_CHUNK = 1 << 20  # a line of 32 MB is put together from 32 of them
_BLANK_LINES = re.compile(rb"(?:[ \t\r]*\n)+")
_HEAD = 1 << 14
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
                chunk = file.read(CHUNK).removeprefix(codecs.BOM_UTF8)
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
        text = next(lines, (0, b""))[1].decode("utf-8", errors="replace").strip(BLANK)
        try:
            strict_decoder().decode(text)
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
        kind, ends = ("element", {"]", ""}) if in_array else ("object", {""})
        with self._opened() as file:
            reader = JsonWindow(file, name=self.name, longest=self.limits.record_bytes)
            if in_array:
                reader.skip("[")
            number = 0
            while reader.peek() not in ends:
                number += 1
                where = f"{self.name}, {kind} {number}"
                if in_array and number > 1:
                    reader.skip(",")
                value = reader.decode(where)
                fields = self.attempt(partial(_fields, where, value, self.limits))
                if fields is not None:
                    yield fields
            if in_array:
                reader.skip("]")
                if reader.peek():
                    raise ImportRefused(self.name, "", f"has {reader.peek()!r} after the end of its array")


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
        value = strict_decoder().decode(line.decode("utf-8").strip(BLANK))
    except UnicodeDecodeError as error:
        raise ImportRefused(where, "", f"is not UTF-8 ({error.reason})") from error
    except (ValueError, RecursionError) as error:
        raise not_json(where, error) from error
    return _fields(where, value, limits)


def _fields(where: str, value: object, limits: Limits) -> Fields:
    """Return an object that is not nested too deeply."""
    require_shallow(where, value, nesting=limits.nesting)
    if not isinstance(value, dict):
        raise ImportRefused(where, "", f"{quoted(value)} is not a JSON object")  # pyright: ignore[reportUnknownArgumentType]
    return Fields(where=where, values=cast("dict[str, object]", value), limits=limits)
