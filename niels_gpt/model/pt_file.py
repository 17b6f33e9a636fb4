"""Read a `.pt` file of `torch.save` without torch, and without running anything that the file says.

The file is an uncompressed zip: a pickle that describes values, and one part per tensor storage. This reader
is a small stack machine for exactly the opcodes that tensors, numbers, texts and their containers need. A
pickle can name functions to call; of these it knows the few that rebuild a tensor, and every other name or
opcode refuses the file. Tensors are views of the mapped file: nothing is copied.

Written from pickle's documentation (docs.python.org/3/library/pickletools.html) and from what
`torch.save` of torch 1.6 to 2.14 writes.
"""

from __future__ import annotations

import mmap
import pickletools
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from niels_gpt.errors import NielsGptError

_MOST_PICKLE_BYTES = 64 * 2**20  # a description of tensors; a state of 10,000 tensors takes about 3 MB
_MOST_DIMENSIONS = 8
_BUILTIN_DTYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "<u2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "?",
}
_KINDS = {"FloatStorage": "f32", "DoubleStorage": "f64", "HalfStorage": "f16", "BFloat16Storage": "bf16"}


class PtFileError(NielsGptError):
    """A file that is damaged, or that holds more than tensors and plain values."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: a read-only view, and what its numbers are.

    `data` has the tensor's shape; bfloat16 stands as its bits, uint16.
    """

    kind: str
    """"f32", "f64", "f16", "bf16", or numpy's name of an integer or boolean type."""
    data: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of its dimensions."""
        return self.data.shape

    def float32(self) -> np.ndarray:
        """Return its numbers as float32, exactly where the type allows; a view where they are float32."""
        if self.kind == "bf16":
            return (self.data.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return self.data.astype(np.float32, copy=False)


class _Storage(NamedTuple):
    kind: str
    numbers: np.ndarray


class _Global(NamedTuple):
    name: str


_MARK = object()


def read_pt(path: str | Path) -> Any:
    """Return what `torch.save` wrote: dictionaries, lists, tuples, plain values, and tensors as StoredTensor.

    Args:
        path: The file. It stays mapped for as long as a tensor of it is used.

    Raises:
        PtFileError: It is not such a file, it is damaged, or it holds something else.
        OSError: It cannot be read.

    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        parts = _parts(path, mapped)
        return _Machine(path, parts).run(_pickle_of(path, parts))
    except ValueError as error:
        if isinstance(error, PtFileError):
            raise
        raise PtFileError(f"{str(path)!r} is not a file of tensors: {error}") from error


def _parts(path: Path, mapped: mmap.mmap) -> dict[str, memoryview]:
    """Return the parts of the archive by name, without their common folder, after checking their sums."""
    view = memoryview(mapped)
    parts: dict[str, memoryview] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except zipfile.BadZipFile as error:
        raise PtFileError(f"{str(path)!r} is not an archive of tensors: {error}") from error
    for entry in entries:
        name = entry.filename.partition("/")[2]
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise PtFileError(f"{str(path)!r}: its part {name!r} is compressed or encrypted")
        begin = entry.header_offset
        header = bytes(view[begin : begin + 30])
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise PtFileError(f"{str(path)!r}: its part {name!r} is not where the archive says")
        name_length, extra_length = struct.unpack("<HH", header[26:30])
        begin += 30 + name_length + extra_length
        data = view[begin : begin + entry.file_size]
        # torch.load does not compare these sums: it would take a flipped bit.
        if len(data) != entry.file_size or zlib.crc32(data) != entry.CRC:
            raise PtFileError(f"{str(path)!r} is damaged: its part {name!r} is not what was written")
        parts[name] = data
    return parts


def _pickle_of(path: Path, parts: Mapping[str, memoryview]) -> bytes:
    if "data.pkl" not in parts:
        raise PtFileError(f"{str(path)!r} is an archive, but not one of tensors: it has no part 'data.pkl'")
    if bytes(parts.get("byteorder", b"little")) != b"little":
        raise PtFileError(f"{str(path)!r} has big-endian numbers, expected little-endian ones")
    if len(parts["data.pkl"]) > _MOST_PICKLE_BYTES:
        raise PtFileError(f"{str(path)!r}: its description has {len(parts['data.pkl']):,} bytes")
    return bytes(parts["data.pkl"])


class _Machine:
    """Interprets the pickle of one file."""

    def __init__(self, path: Path, parts: Mapping[str, memoryview]) -> None:
        self._path = path
        self._parts = parts
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self._storages: dict[str, _Storage] = {}

    def run(self, pickle: bytes) -> Any:
        """Return the value that the pickle describes."""
        for opcode, argument, _ in pickletools.genops(pickle):
            if opcode.name in _CONSTANTS:
                self.stack.append(_CONSTANTS[opcode.name])
            elif opcode.name in _VALUES:
                self.stack.append(argument)
            elif opcode.name in _ACTIONS:
                try:
                    _ACTIONS[opcode.name](self, argument)
                except (IndexError, KeyError, TypeError) as error:
                    raise self.refusal(f"its description ends or breaks off at {opcode.name}") from error
            elif opcode.name == "STOP":
                break
            elif opcode.name not in _IGNORED:
                raise self.refusal(f"its description uses {opcode.name}, which no tensor needs")
        if len(self.stack) != 1 or self.stack[0] is _MARK:
            raise self.refusal("its description is not one value")
        return self.stack[0]

    def refusal(self, why: str) -> PtFileError:
        return PtFileError(f"{str(self._path)!r} holds more than tensors and plain values: {why}")

    def marked(self) -> list[Any]:
        """Take everything above the last mark off the stack, and the mark."""
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise IndexError("no mark")
        values = self.stack[at + 1 :]
        del self.stack[at:]
        return values

    def remember(self, number: int) -> None:
        self.memo[number] = self.stack[-1]

    def recall(self, number: int) -> None:
        value = self.memo[number]
        if type(value) is OrderedDict and not value:
            value = OrderedDict()  # torch stores one empty dictionary of hooks for all tensors
        elif isinstance(value, (dict, list)):
            # A container that is put into itself would never end for a reader of the result.
            raise self.refusal("a dictionary or list stands in two places")
        self.stack.append(value)

    def make_tuple(self, count: int | None) -> None:
        if count is None:
            self.stack.append(tuple(self.marked()))
            return
        values = tuple(self.stack[-count:])
        if len(values) != count or _MARK in values:
            raise IndexError("too few values")
        del self.stack[-count:]
        self.stack.append(values)

    def put(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(pairs) % 2:
            raise TypeError(type(target))
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if not isinstance(key, (str, int)):
                raise self.refusal(f"a key is a {type(key).__name__}")
            target[key] = value

    def extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise TypeError(type(target))
        target.extend(values)

    def name_global(self, name: str) -> None:
        module, _, leaf = name.partition(" ")
        known = name in _CALLABLE or (module in {"torch", "torch.storage"} and leaf in _BUILTIN_DTYPES)
        if not known:
            raise self.refusal(f"it names {module}.{leaf}")
        self.stack.append(_Global(name))

    def persistent(self) -> None:
        _, storage_type, key, _, count = self.stack.pop()
        leaf = storage_type.name.partition(" ")[2]
        if not isinstance(key, str) or leaf not in _BUILTIN_DTYPES:
            raise TypeError(leaf)
        if key not in self._storages:
            dtype = np.dtype(_BUILTIN_DTYPES[leaf])
            part = self._parts.get(f"data/{key}")
            if part is None or len(part) != count * dtype.itemsize:
                raise PtFileError(f"{str(self._path)!r} is damaged: its storage {key!r} is missing or cut")
            numbers = np.frombuffer(part, dtype)
            self._storages[key] = _Storage(_KINDS.get(leaf, dtype.name), numbers)
        self.stack.append(self._storages[key])

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, _Global) or function.name not in _CALLABLE:
            raise TypeError(type(function))
        self.stack.append(_CALLABLE[function.name](self, *arguments))

    def build(self) -> None:
        """Drop the attributes of a state dictionary: torch keeps versions of modules there."""
        attributes, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, OrderedDict) or not isinstance(attributes, dict):
            raise TypeError(type(target))

    def tensor(
        self, storage: _Storage, offset: int, sizes: tuple[int, ...], strides: tuple[int, ...], *_: object
    ) -> StoredTensor:
        numbers = storage.numbers
        if (
            len(sizes) != len(strides)
            or len(sizes) > _MOST_DIMENSIONS
            or min((*sizes, *strides, offset, 0)) < 0
        ):
            raise TypeError("sizes")
        last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
        empty = 0 in sizes
        if not empty and last >= numbers.size:
            raise PtFileError(f"{str(self._path)!r} is damaged: a tensor {sizes} lies outside its storage")
        step = numbers.itemsize
        view = np.lib.stride_tricks.as_strided(
            numbers[0:0] if empty else numbers[offset:],
            sizes,
            [stride * step for stride in strides],
            writeable=False,
        )
        return StoredTensor(storage.kind, view)

    def parameter(self, tensor: StoredTensor, *_: object) -> StoredTensor:
        return tensor

    def ordered(self, *pairs: object) -> OrderedDict[Any, Any]:
        if pairs:
            raise TypeError("OrderedDict with arguments")
        return OrderedDict()


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": (), "MARK": _MARK}
_VALUES = frozenset({"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"})
_IGNORED = frozenset({"PROTO", "FRAME"})
_CALLABLE: dict[str, Callable[..., Any]] = {
    "torch._utils _rebuild_tensor_v2": _Machine.tensor,
    "torch._utils _rebuild_parameter": _Machine.parameter,
    "collections OrderedDict": _Machine.ordered,
}
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "EMPTY_DICT": lambda m, _: m.stack.append({}),
    "EMPTY_LIST": lambda m, _: m.stack.append([]),
    "BINPUT": _Machine.remember,
    "LONG_BINPUT": _Machine.remember,
    "MEMOIZE": lambda m, _: m.remember(len(m.memo)),
    "BINGET": _Machine.recall,
    "LONG_BINGET": _Machine.recall,
    "TUPLE": lambda m, _: m.make_tuple(None),
    "TUPLE1": lambda m, _: m.make_tuple(1),
    "TUPLE2": lambda m, _: m.make_tuple(2),
    "TUPLE3": lambda m, _: m.make_tuple(3),
    "SETITEM": lambda m, _: m.put([m.stack.pop(-2), m.stack.pop()]),
    "SETITEMS": lambda m, _: m.put(m.marked()),
    "APPEND": lambda m, _: m.extend([m.stack.pop()]),
    "APPENDS": lambda m, _: m.extend(m.marked()),
    "GLOBAL": _Machine.name_global,
    "BINPERSID": lambda m, _: m.persistent(),
    "REDUCE": lambda m, _: m.reduce(),
    "BUILD": lambda m, _: m.build(),
}
