"""Read a GGUF file: its metadata as plain values, its tensors mapped. Versions 2 and 3, little-endian.

Every count and length is checked against what is left of the file before anything is made of it, so a header
that lies costs no more memory than the file has bytes.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from niels_gpt.model.stored import CheckpointError, Stored, mapped, stored_bytes

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MOST_DIMENSIONS = 4
MOST_ENTRIES = 65_536
LONGEST_NAME = 65_535

NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
KINDS = {
    0: "f32", 1: "f16", 2: "q4_0", 3: "q4_1", 6: "q5_0", 7: "q5_1", 8: "q8_0", 9: "q8_1", 10: "q2_k",
    11: "q3_k", 12: "q4_k", 13: "q5_k", 14: "q6_k", 15: "q8_k", 16: "iq2_xxs", 17: "iq2_xs", 18: "iq3_xxs",
    19: "iq1_s", 20: "iq4_nl", 21: "iq3_s", 22: "iq2_s", 23: "iq4_xs", 24: "i8", 25: "i16", 26: "i32",
    27: "i64", 28: "f64", 29: "iq1_m", 30: "bf16", 34: "tq1_0", 35: "tq2_0", 39: "mxfp4",
}  # fmt: skip


@dataclass(frozen=True)
class GGUFFile:
    """An open file; `tensors` keep it mapped."""

    path: Path
    metadata: dict[str, Any]
    """By key: numbers, texts, flags, and lists of one of these."""
    tensors: dict[str, Stored]


class _Reader:
    """A position in the mapped bytes that never leaves them."""

    def __init__(self, path: Path, data: np.ndarray) -> None:
        self._path, self.at = path, 0
        self._data = memoryview(data)  # pyright: ignore[reportArgumentType] - an array is a buffer

    def damaged(self, reason: str) -> CheckpointError:
        return CheckpointError(f"{str(self._path)!r} is a damaged GGUF file: {reason}; download it again")

    def take(self, count: int, what: str) -> memoryview:
        left = len(self._data) - self.at
        if count > left:
            raise self.damaged(f"{what} takes {count} bytes, and {left} are left")
        self.at += count
        return self._data[self.at - count : self.at]

    def number(self, form: str, what: str) -> Any:
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form), what))[0]

    def text(self, what: str) -> str:
        return str(self.take(self.number("Q", what), what), "utf-8", "replace")

    def name(self, what: str) -> str:
        length = self.number("Q", what)
        if length > LONGEST_NAME:
            raise self.damaged(f"{what} has {length} bytes")
        return str(self.take(length, what), "utf-8", "replace")

    def value(self, kind: int, what: str) -> Any:
        if kind in NUMBERS:
            return self.number(NUMBERS[kind], what)
        if kind == STRING:
            return self.text(what)
        if kind != ARRAY:
            raise self.damaged(f"{what} has the unknown type {kind}")
        kind, count = self.number("I", what), self.number("Q", what)
        if kind in NUMBERS:
            form = NUMBERS[kind]
            raw = self.take(count * struct.calcsize("<" + form), what)
            return np.frombuffer(raw, np.dtype("<" + form)).tolist()
        if kind != STRING:
            raise self.damaged(f"{what} is a list of the type {kind}, expected numbers or texts")
        if count * 8 > len(self._data) - self.at:
            raise self.damaged(f"{what} has {count} texts, more than the file has room for")
        return self._texts(count, what)

    def _texts(self, count: int, what: str) -> list[str]:
        """Read texts as `text` does; a vocabulary has 100,000 of them, so in a loop without further calls."""
        data, at, end = self._data, self.at, len(self._data)
        length_at = struct.Struct("<Q").unpack_from
        found: list[str] = []
        for _ in range(count):
            (length,) = length_at(data, at) if end - at >= 8 else (8,)
            at += 8
            if length > end - at:
                raise self.damaged(f"{what} has a text of {length} bytes, and {max(end - at, 0)} are left")
            found.append(str(data[at : at + length], "utf-8", "replace"))
            at += length
        self.at = at
        return found


def read_gguf(path: Path) -> GGUFFile:
    """Open a GGUF file.

    Raises:
        CheckpointError: it cannot be read, is damaged, or is of another version.

    """
    data = mapped(path)
    reader = _Reader(path, data)
    if bytes(reader.take(min(4, len(data)), "the magic number")) != MAGIC:
        raise CheckpointError(f"{str(path)!r} is not a GGUF file: it does not start with {MAGIC!r}")
    version = reader.number("I", "the version")
    if version not in VERSIONS:
        raise CheckpointError(f"{str(path)!r} has GGUF version {version}, expected 2 or 3, little-endian")
    tensor_count, entry_count = reader.number("Q", "a count"), reader.number("Q", "a count")
    for count, what in ((tensor_count, "tensors"), (entry_count, "metadata entries")):
        if count > MOST_ENTRIES:
            raise reader.damaged(f"it claims {count} {what}, expected at most {MOST_ENTRIES}")
    metadata: dict[str, Any] = {}
    for _ in range(entry_count):
        key = reader.name("a metadata key")
        if key in metadata:
            raise reader.damaged(f"the key {key!r} stands there twice")
        metadata[key] = reader.value(reader.number("I", key), f"the value of {key!r}")
    headers = [_tensor_header(reader) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1 or alignment > 2**20:
        raise reader.damaged(f"general.alignment is {alignment!r}")
    start = -(-reader.at // alignment) * alignment
    tensors: dict[str, Stored] = {}
    for name, kind, shape, offset in headers:
        if name in tensors:
            raise reader.damaged(f"the tensor {name!r} stands there twice")
        tensors[name] = _tensor(reader, data, start, name, kind, shape, offset)
    return GGUFFile(path, metadata, tensors)


def _tensor_header(reader: _Reader) -> tuple[str, str, tuple[int, ...], int]:
    name = reader.name("a tensor's name")
    dimensions = reader.number("I", name)
    if dimensions > MOST_DIMENSIONS:
        raise reader.damaged(f"the tensor {name!r} has {dimensions} dimensions")
    shape = tuple(reader.number("Q", name) for _ in range(dimensions))
    kind = reader.number("I", name)
    return name, KINDS.get(kind, f"type {kind}"), shape[::-1], reader.number("Q", name)


def _tensor(  # noqa: PLR0917 - the fields of a header
    reader: _Reader, data: np.ndarray, start: int, name: str, kind: str, shape: tuple[int, ...], offset: int
) -> Stored:
    size = stored_bytes(kind, shape)
    if size is None:  # refused where it is used, by its name and kind
        return Stored(kind, shape, data[:0])
    beyond = start + offset + size - data.size
    if beyond > 0:
        raise reader.damaged(
            f"the tensor {name!r} of {math.prod(shape)} numbers ends {beyond} bytes behind the file's end"
        )
    return Stored(kind, shape, data[start + offset : start + offset + size])
