"""Load compiled kernels from files of object code and call them, without importing Numba.

A part is a kernel that others call by its address, compiled for arguments of the types that decoding passes
(`kernels.build`). Its file is in the folder of these sources' kernels (`kernels.cache`) and named after the
processor. So a start that finds its parts needs LLVM's linker only: importing Numba and loading its compiler
takes 0.4 s. A file that fails its checksum is compiled again.

A part takes its arguments as compiled code does: numbers in registers. The loop has too many of them, arrays
too, so it reads them from an array of 64-bit words (`Arguments`).
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import threading
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
from llvmlite import binding

from niels_gpt.atomic_io import atomic_write
from niels_gpt.kernels.cache import cache_folder, claim_folder
from niels_gpt.kernels.processor import processor_digest
from niels_gpt.kernels.slots import Calls

FLOATS = "product float32"
"""The product that every transformer needs; attention uses it too."""
_MAGIC = b"niels-gpt kernel 1"
_loaded: dict[str, tuple[int, Any]] = {}
"""The address of each part, with what keeps it in memory."""
_loading = threading.Lock()
"""Held while a part is loaded, so that each is loaded once, whichever threads ask for it."""


def parts_of(kind: str, arch: str = "gpt") -> list[str]:
    """Return the parts that a model needs.

    Args:
        kind: The kind of its matrices, as in `kernels.gpt_layout`.
        arch: "gpt" or "bdh"; every transformer runs through the kernels of "gpt".

    """
    parts = [f"forward {arch}", "sampler", f"loop {arch}"]
    return [*parts, "attention", *dict.fromkeys([FLOATS, f"product {kind}"])] if arch == "gpt" else parts


def is_stored(part: str) -> bool:
    """Return whether a part was compiled for this processor and kept."""
    return _path(part).is_file()


def is_prepared(kind: str = "float32", arch: str = "gpt") -> bool:
    """Return whether all parts of a model are compiled already, so that nothing need wait."""
    return all(is_stored(part) for part in parts_of(kind, arch))


def address_of(part: str) -> int:
    """Return where a part is in memory: loaded from its file, or compiled if there is none."""
    with _loading:
        if part not in _loaded:
            _loaded[part] = _linked(*(_read(_path(part)) or store(part)))
        return _loaded[part][0]


def store(part: str) -> tuple[str, bytes]:
    """Compile a part and keep it on disk if that is possible; return its symbol and its object code."""
    from niels_gpt.kernels.build import compile_part  # noqa: PLC0415 - Numba

    symbol, code = compile_part(part)
    if claim_folder():
        with contextlib.suppress(OSError), atomic_write(_path(part), mode=0o600) as file:
            file.write(b"\n".join([_MAGIC, _checksum(symbol, code), symbol.encode(), code]))
    return symbol, code


def _path(part: str) -> Path:
    return cache_folder() / f"{part.replace(' ', '-')}.{processor_digest()}.o"


def _read(path: Path) -> tuple[str, bytes] | None:
    """Return symbol and object code of a file; None if it is missing or damaged."""
    with contextlib.suppress(OSError, ValueError):
        magic, checksum, name, code = path.read_bytes().split(b"\n", 3)
        symbol = name.decode()
        if (magic, checksum) == (_MAGIC, _checksum(symbol, code)):
            return symbol, code
    return None


def _checksum(symbol: str, code: bytes) -> bytes:
    return hashlib.sha256(symbol.encode() + b"\n" + code).hexdigest().encode()


def _linked(symbol: str, code: bytes) -> tuple[int, Any]:
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    # Each engine owns the machine that it is made with.
    machine = binding.Target.from_default_triple().create_target_machine(jit=True)
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return engine.get_function_address(symbol), engine


class Arguments:
    """The arguments of the loop as words; what did not change since the last call is not converted again."""

    def __init__(self) -> None:
        self._known: list[tuple[object, list[int]]] = []
        self._words = np.zeros(0, np.int64)

    def address(self, *arguments: object) -> int:
        """Return the address of the words of these arguments; they are valid until the next call."""
        old = self._known or [(None, [])] * len(arguments)
        self._known = [
            known if known[0] is argument else (argument, _words(argument))
            for known, argument in zip(old, arguments, strict=True)
        ]
        self._words = np.array([word for _, words in self._known for word in words], np.int64)
        return self._words.ctypes.data


def _words(value: object) -> list[int]:
    """Return the words of a number, an array or a tuple of those, as `jit.from_words` reads them.

    Raises:
        TypeError: The value is of a type that kernels do not take.

    """
    if isinstance(value, tuple):
        return [word for part in value for word in _words(part)]
    if isinstance(value, np.ndarray) and value.flags.c_contiguous:
        return [value.ctypes.data, *value.shape]
    if type(value) is np.float32:
        return [int(value.view(np.uint32))]
    if isinstance(value, SupportsIndex):
        return [value.__index__()]
    raise TypeError(f"got {value!r} as an argument of a kernel")


class Entry:
    """A part that Python calls: "loop" or "read" of an architecture, see `decode_loop`."""

    _TYPE = ctypes.CFUNCTYPE(
        ctypes.c_int32,
        ctypes.POINTER(ctypes.c_int64),
        ctypes.POINTER(ctypes.c_void_p),
        *[ctypes.c_int64] * 4,
    )

    def __init__(self, part: str) -> None:
        self._call = self._TYPE(address_of(part))

    def __call__(self, words: int, a: int, b: int, c: int) -> int:
        """Call it without the GIL and return its result.

        Args:
            words: The address of its arguments (`Arguments`) but for the last three.
            a: The first of these.
            b: The second.
            c: The third.

        """
        result, error = ctypes.c_int64(), ctypes.c_void_p()
        status = self._call(ctypes.byref(result), ctypes.byref(error), words, a, b, c)
        if status != 0:
            raise RuntimeError(f"a compiled kernel ended with status {status}")
        return result.value


def calls_of(arch: str) -> Calls:
    """Return the addresses of what steps of an architecture call."""
    return Calls(address_of(f"forward {arch}"), address_of("sampler"))
