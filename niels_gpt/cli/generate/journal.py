"""An output file that can be gone on with: beside it, how far it is known to be right.

`OUTPUT.resume` begins with a digest of everything that decides the output and gets a line for each prompt
that is done: how many are, how many bytes they take, and the SHA-256 of those bytes. Who runs the same
command again cuts the output to the last line that is true of it and goes on from there. The journal is
gone once the output is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import BinaryIO, Self

from niels_gpt.conversation.errors import ChatError


class Journal:
    """Appends results to a file; each is known to be there once `add` returns."""

    def __init__(self, output: Path, *, job: str) -> None:
        """`job` is the digest; ChatError for an output of another job that is not whole yet."""
        self._output = output
        self._beside = output.with_name(output.name + ".resume")
        self._job = job
        self.done = 0
        """Prompts whose results the file holds."""
        self._bytes = 0
        self._digest = hashlib.sha256()
        self._file: BinaryIO | None = None
        self._marks: BinaryIO | None = None

    def __enter__(self) -> Self:
        try:
            resumes = self._beside.exists()
            if resumes:
                self._find_end()
            self._file = self._output.open("r+b" if resumes else "wb")
            self._file.truncate(self._bytes)
            self._file.seek(self._bytes)
            self._marks = self._beside.open("wb")
            self._mark({"job": self._job})
            if self.done:
                self._mark_done()
        except OSError as error:
            raise ChatError(f"cannot write {error.filename!r}: {error.strerror}") from error
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for file in (self._file, self._marks):
            if file is not None:
                file.flush()
                os.fsync(file.fileno())
                file.close()
        if kind is None:
            self._beside.unlink(missing_ok=True)

    def add(self, text: str) -> None:
        """Append the results of one prompt."""
        data = text.encode("utf-8", errors="replace")
        assert self._file is not None  # noqa: S101 - inside of the `with`
        self._file.write(data)
        self._file.flush()
        self._digest.update(data)
        self._bytes += len(data)
        self.done += 1
        self._mark_done()

    def _mark_done(self) -> None:
        self._mark({"done": self.done, "bytes": self._bytes, "sha256": self._digest.hexdigest()})

    def _mark(self, line: dict[str, object]) -> None:
        assert self._marks is not None  # noqa: S101 - inside of the `with`
        self._marks.write(json.dumps(line).encode() + b"\n")
        self._marks.flush()

    def _find_end(self) -> None:
        """Set where the output is known to be right; ChatError if it is not, or belongs to another job."""
        lines = self._beside.read_bytes().split(b"\n")[:-1]  # what has no line end was not finished
        anew = f"delete {str(self._beside)!r} to begin anew"
        marks = [_parsed(line) for line in lines]
        if not marks or marks[0].get("job") != self._job:
            raise ChatError(
                f"{str(self._output)!r} is the unfinished output of another model, other prompts or "
                f"settings; {anew}, or give another --output"
            )
        data = self._output.read_bytes() if self._output.exists() else b""
        for mark in marks[1:]:
            done, size = mark.get("done"), mark.get("bytes")
            if not isinstance(done, int) or not isinstance(size, int) or size > len(data):
                break
            digest = self._digest.copy()
            digest.update(data[self._bytes : size])
            if digest.hexdigest() != mark.get("sha256"):
                break
            self.done, self._bytes, self._digest = done, size, digest
        if len(marks) > 1 and not self.done:
            raise ChatError(f"{str(self._output)!r} was changed since it was interrupted; {anew}")


def _parsed(line: bytes) -> dict[str, object]:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
