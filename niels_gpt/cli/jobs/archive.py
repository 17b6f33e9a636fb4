"""Read an exported archive session by session, from any place and split over shards.

Compressed archives (gzip) are read as a stream; offsets count uncompressed bytes. At most one session is in
memory.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

from niels_gpt.cli.jobs.journal import Place, chunks
from niels_gpt.errors import NielsGptError
from sessions.formats import ImportRefused, Limits
from sessions.formats.json_reader import line_fields
from sessions.formats.native import session_count

# In the text of a message, the quotation marks are escaped.
_BEGINS_SESSION = re.compile(rb'"type"\s*:\s*"session"')
_BEGINS_GENERATION = re.compile(rb'"type"\s*:\s*"generation"')
_GZIP = b"\x1f\x8b"


class ArchiveError(NielsGptError):
    """An archive that cannot be read."""


@dataclass(frozen=True, kw_only=True)
class StoredSession:
    """The lines of one session, each with its number in the file counted from 1."""

    lines: tuple[tuple[int, bytes], ...]
    end: Place

    @property
    def raw(self) -> bytes:
        """The session's bytes."""
        return b"".join(line for _, line in self.lines)


@dataclass(frozen=True, kw_only=True)
class ArchiveFile:
    """The sessions of an archive, or of one shard of it."""

    path: Path
    size: int
    """Bytes of the file as it is stored."""
    start: Place
    """Where the first session begins."""
    first: int = 0
    """Sessions before `start`."""
    count: int
    """Sessions from `start` on, as the first line of the archive states."""
    is_last: bool = True
    """Whether the end of the file belongs to these sessions."""

    def sessions(self, since: Place | None = None, *, done: int = 0) -> Iterator[StoredSession]:
        """Yield the sessions after a place.

        Args:
            since: The place; None for the start.
            done: How many sessions of the shard lie before it.

        Raises:
            ArchiveError: The archive cannot be read.

        """
        place = since or self.start
        found: list[tuple[int, bytes]] = []
        for number, line in self._lines(place):
            if _BEGINS_SESSION.search(line) and found:
                yield StoredSession(lines=tuple(found), end=place)
                found, done = [], done + 1
            if done >= self.count and not self.is_last:
                return
            found.append((number, line))
            place = Place(place.offset + len(line), number)
        if found:
            yield StoredSession(lines=tuple(found), end=place)

    def reply_digests(self) -> Iterator[str]:
        """Yield the digest of each reply's generation in the whole archive."""
        for number, line in self._lines(Place(0, 0)):
            if not _BEGINS_GENERATION.search(line):
                continue
            try:
                values = line_fields(line, where=f"{self.path.name}, line {number}", limits=Limits()).values
            except ImportRefused:
                continue  # the audit of its session reports it
            if isinstance(digest := values.get("digest"), str):
                yield digest

    def shard(self, number: int, count: int) -> ArchiveFile:
        """Return one of `count` parts of nearly as many sessions each, counted from 0."""
        first, stop = self.count * number // count, self.count * (number + 1) // count
        is_last = number == count - 1
        start = self.start
        if first:
            whole = self.sessions()
            for index in range(first):
                session = next(whole, None)
                if session is None:  # the file ends too early, which is for the last shard to say
                    first, stop = index, stop if is_last else index
                    break
                start = session.end
        return replace(self, start=start, first=first, count=stop - first, is_last=is_last)

    def digest(self, stop: int) -> hashlib._Hash:
        """Return SHA-256 over the uncompressed bytes from the start to an offset."""
        digest = hashlib.sha256()
        with _opened(self.path) as file:
            file.seek(self.start.offset)
            for chunk in chunks(file, stop - self.start.offset):
                digest.update(chunk)
        return digest

    def _lines(self, place: Place) -> Iterator[tuple[int, bytes]]:
        longest = Limits().record_bytes
        with _opened(self.path) as file:
            file.seek(place.offset)
            for number, line in enumerate(
                iter(partial(file.readline, longest + 2), b""), start=place.line + 1
            ):
                if len(line) > longest + 1:
                    raise ArchiveError(
                        f"{str(self.path)!r}, line {number} is longer than {longest:,} bytes: no archive has "
                        "such lines"
                    )
                yield number, line


def open_archive(path: Path) -> ArchiveFile:
    """Return an archive. Raises ArchiveError where the file is not one, or cannot be read."""
    if not path.is_file():
        what = "is not a regular file" if path.exists() else "does not exist"
        raise ArchiveError(f"archive {str(path)!r} {what}; expected a file of niels-chat export")
    with _opened(path) as file:
        head = file.readline(Limits().record_bytes)
    try:
        count = session_count(line_fields(head, where=f"{path.name}, line 1", limits=Limits()))
    except ImportRefused as error:
        raise ArchiveError(f"{error.place}: {error.what}; expected a file of niels-chat export") from error
    return ArchiveFile(path=path, size=path.stat().st_size, start=Place(len(head), 1), count=count)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open an archive for reading; it is compressed if it begins so, whatever its name."""
    try:
        with path.open("rb") as raw:
            is_compressed = raw.read(2) == _GZIP
            raw.seek(0)
            if not is_compressed:
                yield raw
                return
            with gzip.open(raw) as file:
                yield cast("BinaryIO", file)
    except (OSError, EOFError) as error:
        raise ArchiveError(f"archive {str(path)!r} cannot be read: {error}") from error
