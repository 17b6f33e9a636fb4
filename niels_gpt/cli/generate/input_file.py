"""Read a file of prompts line by line, a part of it, and from a place in the middle.

Memory stays flat however long the file is. The parts of a file are ranges of bytes, cut at line ends, so that
the results of all parts, one after the other, are the results of the whole file.
"""

from __future__ import annotations

import codecs
import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from niels_gpt.cli.generate.prompts import PromptError
from niels_gpt.cli.jobs.journal import Place, chunks

_LONGEST = 1 << 28  # bytes of a pipe or a device, which are kept in memory


@dataclass(frozen=True, slots=True)
class Line:
    """A line that is not blank; `raw` has the bytes since the line before, blank lines included."""

    text: str
    number: int
    raw: bytes
    end: Place


@dataclass(frozen=True, kw_only=True)
class InputFile:
    """The lines of a file that begin in the bytes from `start` to `stop`."""

    path: Path
    content: bytes | None
    """The whole input where it is not a regular file, such as a pipe; else it stays on the disk."""
    size: int
    start: Place
    stop: int
    is_first: bool
    """Whether no line before `start` is a prompt."""

    def lines(self, since: Place | None = None) -> Iterator[Line]:
        """Yield the lines that are not blank, from a place on; PromptError for one that is not UTF-8."""
        place = self.start if since is None else since
        skipped = b""
        with self._opened(place.offset) as file:
            while place.offset < self.stop:
                raw = file.readline()
                if not raw:
                    return
                place = Place(place.offset + len(raw), place.line + 1)
                text = self._text(raw, place).strip()
                if text:
                    yield Line(text, place.line - 1, skipped + raw, place)
                    skipped = b""
                else:
                    skipped += raw

    def digest(self, stop: int) -> hashlib._Hash:
        """Return SHA-256 over the bytes from the start to an offset."""
        digest = hashlib.sha256()
        with self._opened(self.start.offset) as file:
            for chunk in chunks(file, stop - self.start.offset):
                digest.update(chunk)
        return digest

    def shard(self, number: int, count: int) -> InputFile:
        """Return one of `count` parts of nearly equal size, counted from 0."""
        first, lines, is_first = self._first_line(self.size * number // count)
        last, _, _ = self._first_line(self.size * (number + 1) // count, counts=False)
        return replace(self, start=Place(first, lines), stop=last, is_first=is_first)

    def _first_line(self, offset: int, *, counts: bool = True) -> tuple[int, int, bool]:
        """Return the start of the first line from an offset on, the lines before, and if none is a prompt."""
        if offset <= 0:
            return 0, 0, True
        with self._opened(offset - 1) as file:
            offset += len(file.readline()) - 1
        lines, is_first = 0, True
        if counts:
            with self._opened(0) as file:
                for chunk in chunks(file, offset):
                    lines += chunk.count(b"\n")
                    is_first = is_first and not chunk.removeprefix(codecs.BOM_UTF8).strip()
        return offset, lines, is_first

    def _text(self, raw: bytes, end: Place) -> str:
        if end.offset == len(raw):
            raw = raw.removeprefix(codecs.BOM_UTF8)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise PromptError(
                f"--prompts {str(self.path)!r}: line {end.line} has the byte 0x{raw[error.start]:02x}, which "
                "is not UTF-8; save the file as UTF-8"
            ) from error

    @contextmanager
    def _opened(self, offset: int) -> Iterator[BinaryIO]:
        file: BinaryIO = self.path.open("rb") if self.content is None else io.BytesIO(self.content)
        with file:
            file.seek(offset)
            yield file


def open_input(path: Path) -> InputFile:
    """Return a file of prompts; PromptError where it cannot be read.

    A pipe or a device is read to its end at once, since it cannot be read twice.
    """
    try:
        if path.is_file():
            content, size = None, path.stat().st_size
            with path.open("rb"):
                pass
        else:
            with path.open("rb") as file:
                content = file.read(_LONGEST + 1)
            size = len(content)
    except OSError as error:
        raise PromptError(f"cannot read --prompts {str(path)!r}: {error.strerror or error}") from error
    if content is not None and size > _LONGEST:  # a device may have no end
        raise PromptError(f"--prompts {str(path)!r} has more than {_LONGEST >> 20} MiB; give a regular file")
    return InputFile(path=path, content=content, size=size, start=Place(0, 0), stop=size, is_first=True)
