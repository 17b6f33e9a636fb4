"""A driver that runs the kernels' own .cu files on the CPU, compiled by the system's C++ compiler.

Compiled files are kept by a hash of their sources. `edit` changes a source before it is compiled, for
controls that must fail.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from niels_gpt.kernels.cache import cache_folder
from niels_gpt.kernels.cuda.driver import (
    FOLDER,
    LARGE_BLOCKS,
    MODULE_OF,
    USUAL_SHARED_BYTES,
    Argument,
    Module,
)

COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler for the GPU's kernels")
FLAGS = (
    *("-x", "c++", "-std=c++17", "-O2", "-fPIC", "-shared", "-ffp-contract=off", "-Wno-unknown-pragmas"),
    "-U_FORTIFY_SOURCE",  # it refuses to leave one stack for another
    *(("-march=native",) if platform.machine() == "x86_64" else ()),  # fused multiply-adds in one instruction
)
OBJECTS = cache_folder().parents[1] / "shim"  # of the user alone, and kept while the kernels' Python changes
KEPT_SECONDS = 14 * 86_400
"""How long a file that is not used is kept there."""
HERE = Path(__file__).parent

Edit = tuple[str, str, str]
"""A source file, a piece of its text, and what replaces it."""


def _is_made_of(file: str, part: str) -> bool:
    """Return whether a source is the file `part` or includes it."""
    return part == file or f'#include "{part}"' in (FOLDER / file).read_text("utf-8")


def kept(name: str) -> Path:
    """Return the path of a compiled file; if it is there, it has been used now."""
    path = OBJECTS / name
    if path.exists():
        path.touch()
        return path
    OBJECTS.mkdir(parents=True, exist_ok=True)
    for other in OBJECTS.iterdir():
        with contextlib.suppress(OSError):  # another run may have deleted it
            if other.is_file() and time.time() - other.stat().st_mtime > KEPT_SECONDS:
                other.unlink()
    return path


@cache
def library(module: Module, edit: Edit | None = None) -> ctypes.CDLL:
    """Compile one module, if it was not compiled before, and load it."""
    sources = {path.name: path.read_text("utf-8") for path in sorted(FOLDER.glob("*.cu*"))}
    if edit is not None:
        file, old, new = edit
        assert sources[file].count(old) == 1, f"{file} holds {sources[file].count(old)} times {old!r}"
        sources[file] = sources[file].replace(old, new)
    shim = (HERE / "shim.h").read_text("utf-8")
    cases = "\n".join(
        f"    case {i}: shim_apply({kernel}, a); break;" for i, kernel in enumerate(module.kernels)
    )
    macros = "".join(f"#define {name} {value}\n" for name, value in module.macros)
    main = f"""{macros}#include "shim.h"
#include "{module.file}"
static int shim_kernel;
static void shim_call(void** a) {{
  switch (shim_kernel) {{
{cases}
  }}
}}
extern "C" int shim_run(int kernel, void** arguments, int x, int y, int threads, int shared, int order) {{
  shim_kernel = kernel;
  return shim_launch(shim_call, arguments, x, y, threads, shared, order);
}}
"""
    needed = [text for file, text in sources.items() if file == module.file or file.endswith(".cuh")]
    digest = hashlib.sha256("\0".join([main, shim, *needed, *FLAGS]).encode()).hexdigest()[:16]
    target = kept(f"{module.file}-{digest}.so")
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=OBJECTS) as folder:
            for file, text in {**sources, "shim.h": shim, "main.cpp": main}.items():
                (Path(folder) / file).write_text(text, "utf-8")
            built = Path(folder) / "built.so"
            flags = FLAGS if edit is None else (*FLAGS, "-O1")  # a control runs once
            command = [str(COMPILER), *flags, "-I", folder, "-o", str(built), f"{folder}/main.cpp"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            built.replace(target)
    loaded = ctypes.CDLL(str(target))
    loaded.shim_run.argtypes = [ctypes.c_int, ctypes.c_void_p, *[ctypes.c_int] * 5]
    return loaded


class HostDriver:
    """The kernels on the CPU, with memory of its own; `edit` is that of `library`."""

    processors = 4
    shared_bytes = 99 << 10  # of a GPU for people; those for data centres have more

    def __init__(
        self,
        *,
        name: str = "shim",
        total_bytes: int = 1 << 28,
        edit: Edit | None = None,
        descending: bool = False,
        early: bool = False,
    ) -> None:
        self.name = name
        self.graphs = 0
        """How many graphs were recorded."""
        self._arrays: dict[int, np.ndarray] = {}
        self._left, self._edit = total_bytes, edit
        self._order = int(descending) + 2 * int(early)
        self._recording: list[Callable[[], None]] | None = None
        self.launches: list[str] = []
        """The kernels that ran, in order."""

    def free_bytes(self) -> int:
        return self._left

    def allocate(self, nbytes: int) -> int:
        if nbytes > self._left:
            raise MemoryError(f"{nbytes} bytes")
        raw = np.zeros(nbytes + 256, np.uint8)
        address = -(-raw.ctypes.data // 256) * 256
        self._arrays[address] = raw
        self._left -= nbytes
        return address

    def free(self, address: int) -> None:
        self._left += self._arrays.pop(address).size - 256

    def upload(self, address: int, array: np.ndarray) -> None:
        assert array.flags.c_contiguous
        assert self._recording is None, "a graph records launches alone"
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def download(self, address: int, array: np.ndarray) -> None:
        assert array.flags.c_contiguous
        assert self._recording is None, "a graph records launches alone"
        ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def launch(
        self,
        kernel: str,
        blocks: tuple[int, int],
        threads: int,
        arguments: tuple[Argument, ...],
        *,
        shared: int = 0,
    ) -> None:
        assert threads % 32 == 0
        assert threads <= 512  # more may need more registers than there are
        assert min(blocks) > 0
        assert shared <= (self.shared_bytes if kernel in LARGE_BLOCKS else USUAL_SHARED_BYTES)
        module = MODULE_OF[kernel]
        edit = self._edit if self._edit is not None and _is_made_of(module.file, self._edit[0]) else None
        loaded, number = library(module, edit), module.kernels.index(kernel)
        values = [_c_value(argument) for argument in arguments]
        places = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))

        def run() -> None:
            self.launches.append(kernel)
            assert values  # kept as long as the launch
            stuck = loaded.shim_run(number, places, *blocks, threads, shared, self._order)
            assert not stuck, f"the threads of {kernel} wait for each other permanently"

        run() if self._recording is None else self._recording.append(run)

    def graph(self, work: Callable[[], None]) -> Callable[[], None]:
        assert self._recording is None
        self.graphs += 1
        self._recording = recorded = []
        try:
            work()
        finally:
            self._recording = None
        return lambda: [run() for run in recorded] and None


def _c_value(argument: Argument) -> Any:
    if isinstance(argument, np.int32):
        return ctypes.c_int32(int(argument))
    if isinstance(argument, np.float32):
        return ctypes.c_float(float(argument))
    assert isinstance(argument, int), f"{argument!r} has no type that a kernel takes"
    return ctypes.c_uint64(argument)
