"""Write an output file that can be resumed, with a journal of what is known to be complete next to it.

`OUTPUT.resume` begins with a line that identifies the job: a digest of everything that decides the output,
and the size of the input. A line follows for each prompt that is done: how many are, how many bytes of the
output they take, which place of the input was reached, and SHA-256 digests of these bytes. The same command,
run again, verifies the last complete line, cuts the output there and continues. The journal is removed once
the output is complete; a shard keeps it, with a last line that says so, for the merge.

The first line is written to a file of its own that then takes the name, so that a crash leaves a journal
with its first line or none. The output is locked meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, Self

from niels_gpt.atomic_io import atomic_write
from niels_gpt.errors import NielsGptError

try:
    import fcntl
except ImportError:  # a system without it does without the lock
    fcntl = None

VERSION = 2
CHUNK = 2**20


@dataclass(frozen=True, slots=True)
class Place:
    """A place between two lines of an input."""

    offset: int
    """Bytes before it."""
    line: int
    """Lines before it."""


class Input(Protocol):
    """The input of a job: a file that is read from front to back."""

    @property
    def size(self) -> int:
        """Bytes of the file, with which an input is told from a different one."""
        ...

    @property
    def start(self) -> Place:
        """The place at which the job begins."""
        ...

    def digest(self, stop: int) -> hashlib._Hash:
        """Return SHA-256 over the bytes from the start to an offset."""
        ...


class OutputError(NielsGptError):
    """An output that cannot be written or resumed."""


class Journal:
    """Appends results to a file; each survives a kill of the process once `add` returns."""

    def __init__(
        self,
        output: Path,
        *,
        job: str,
        source: Input | None = None,
        force: bool = False,
        keeps_marks: bool = False,
    ) -> None:
        """Prepare to write `output`.

        Args:
            output: The file. A pipe or a device is written without a journal.
            job: Digest of everything that decides the output besides the input.
            source: The input; None where the job includes it.
            force: Replace an existing output.
            keeps_marks: Keep the journal of a complete output, for a merge.

        """
        self._output = output
        self._beside = journal_of(output)
        self._source = source
        self._head = {"version": VERSION, "job": job, "input_bytes": source.size if source else 0}
        self._force, self._keeps_marks = force, keeps_marks
        self._file: BinaryIO | None = None
        self._marks: BinaryIO | None = None
        self._bytes = 0
        self._digest, self._input_digest = hashlib.sha256(), hashlib.sha256()
        self.done = 0
        """Prompts whose results the file holds."""
        self.place = source.start if source else Place(0, 0)
        """The place that was reached in the input."""
        self.is_complete = False
        """Whether the output of this job is complete already."""

    def __enter__(self) -> Self:
        if is_stream(self._output):
            self._file = self._output.open("wb")
            return self
        try:
            # Unlike "r+b", it makes the file; unlike "w+b", it leaves the content.
            self._file = os.fdopen(os.open(self._output, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
            self._lock()
            self._find_end()
            if self.is_complete:
                return self
            self._write_head()
            self._file.truncate(self._bytes)
            self._file.seek(self._bytes)
            self._marks = self._beside.open("ab")
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if self._file is not None and self._marks is not None:
                if kind is None and self._keeps_marks:
                    self._mark({"complete": True})
                for file in (self._file, self._marks):
                    file.flush()
                    os.fsync(file.fileno())
                if kind is None and not self._keeps_marks:
                    self._beside.unlink(missing_ok=True)
        finally:
            self._close()

    def add(self, text: str, *, raw: bytes = b"", place: Place | None = None) -> None:
        """Append the results of one prompt, whose line took the bytes `raw` of the input up to `place`."""
        data = text.encode("utf-8", errors="replace")
        assert self._file is not None  # noqa: S101 - inside of the `with`
        try:
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            error.filename = error.filename or str(self._output)
            raise
        self._digest.update(data)
        self._input_digest.update(raw)
        self._bytes += len(data)
        self.done += 1
        self.place = place or self.place
        if self._marks is not None:
            self._mark(self._state())

    def _state(self) -> dict[str, object]:
        return {
            "done": self.done,
            "bytes": self._bytes,
            "sha256": self._digest.hexdigest(),
            "input": self.place.offset,
            "line": self.place.line,
            "input_sha256": self._input_digest.hexdigest(),
        }

    def _mark(self, line: dict[str, object]) -> None:
        assert self._marks is not None  # noqa: S101 - inside of the `with`
        try:
            self._marks.write(json.dumps(line).encode() + b"\n")
            self._marks.flush()
        except OSError as error:
            error.filename = error.filename or str(self._beside)
            raise

    def _lock(self) -> None:
        assert self._file is not None  # noqa: S101 - the caller opened it
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(
                f"{str(self._output)!r} is being written by another process; wait, or give another --output"
            ) from error

    def _write_head(self) -> None:
        with atomic_write(self._beside) as file:
            file.write(json.dumps(self._head).encode() + b"\n")
            if self.done:
                file.write(json.dumps(self._state()).encode() + b"\n")

    def _find_end(self) -> None:
        """Find out where the output is known to be right; OutputError if it is not, or of another job."""
        head = next(marks_of(self._beside), None)
        advice = "replace it with --force, or give another --output"
        assert self._file is not None  # noqa: S101 - the caller opened it
        size = os.fstat(self._file.fileno()).st_size
        if head is None or self._force:
            if size and not self._force:
                raise OutputError(f"{str(self._output)!r} exists; {advice}")
            return
        if head != self._head:
            raise OutputError(
                f"{str(self._output)!r} is the unfinished output of another model, other prompts or "
                f"settings; {advice}"
            )
        last = last_mark(self._beside)
        if last.get("complete") is True:
            last, self.is_complete = last_mark(self._beside, before_complete=True), True
        if last == head:
            return
        if not self._is_true(last, size):
            last = next(
                (mark for mark in reversed([*marks_of(self._beside)][1:]) if self._is_true(mark, size)), {}
            )
        if not last:
            raise OutputError(f"{str(self._output)!r} was changed since it was interrupted; {advice}")

    def _is_true(self, mark: dict[str, Any], size: int) -> bool:
        """Compare a mark with output and input, and take it over where they agree."""
        numbers = [mark.get(name) for name in ("done", "bytes", "input", "line")]
        if not all(isinstance(n, int) and n >= 0 for n in numbers):
            return False
        done, length, offset, line = (int(n) for n in numbers if n is not None)
        if length > size:
            return False
        digest = hashlib.sha256()
        with self._output.open("rb") as file:
            for chunk in chunks(file, length):
                digest.update(chunk)
        input_digest = self._source.digest(offset) if self._source else hashlib.sha256()
        if (digest.hexdigest(), input_digest.hexdigest()) != (mark.get("sha256"), mark.get("input_sha256")):
            return False
        self.done, self._bytes, self.place = done, length, Place(offset, line)
        self._digest, self._input_digest = digest, input_digest
        return True

    def _close(self) -> None:
        for file in (self._file, self._marks):
            if file is not None:
                file.close()


def chunks(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield the next `size` bytes of a file, or what there is of them, in pieces."""
    while size > 0:
        chunk = file.read(min(size, CHUNK))
        if not chunk:
            return
        size -= len(chunk)
        yield chunk


def journal_of(output: Path) -> Path:
    """Return the journal of an output."""
    return output.with_name(output.name + ".resume")


def is_stream(output: Path) -> bool:
    """Return whether an output is a pipe, a device or an open descriptor, which cannot be cut or resumed."""
    return (output.is_absolute() and output.parts[1:2] in {("dev",), ("proc",)}) or (
        output.exists() and not output.is_file()
    )


def marks_of(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the complete lines of a journal, up to the first that is damaged; none where it is missing."""
    try:
        with path.open("rb") as file:
            for line in file:
                mark = _parsed(line)
                if not mark:
                    return
                yield mark
    except FileNotFoundError:
        return


def last_mark(path: Path, *, before_complete: bool = False) -> dict[str, Any]:
    """Return the last complete line of a journal, or the one before; it has at least a first line."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - 2**14))
        marks = [mark for line in file if (mark := _parsed(line))]
    if before_complete:
        marks = [mark for mark in marks if "complete" not in mark]
    return marks[-1]


def _parsed(line: bytes) -> dict[str, Any]:
    if not line.endswith(b"\n"):
        return {}
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
