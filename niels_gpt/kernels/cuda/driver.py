"""The interface between the kernels and a GPU: memory, launches, graphs.

`niels_gpt.decoding.nvidia` implements it with torch's memory and NVIDIA's cuda-core. The tests implement it
on the CPU, so that everything above it runs on machines without a GPU. Addresses are integers; one thread
uses a driver at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

FOLDER = Path(__file__).resolve().parent
"""The folder of the .cu files."""
PRODUCTS = ("one", "few", "some_16", "some_32", "some_64", "wide_64", "many")
WEIGHTS = ("float32", "int8", "bf16", "f16")
LARGE_BLOCKS = frozenset(f"{product}_{form}" for product in PRODUCTS[:-1] for form in WEIGHTS) | {
    "attend_rows"
}
"""Kernels whose blocks may use more shared memory than a GPU gives without being asked. All of it is that of
the launch: what a kernel declares itself would exceed the limit."""
USUAL_SHARED_BYTES = 48 << 10


class Module(NamedTuple):
    """Kernels that are compiled together: a source file, and macros that are defined for it."""

    file: str
    macros: tuple[tuple[str, str], ...]
    kernels: tuple[str, ...]


MODULES = (
    *(
        Module("linear.cu", (("FORM", form),), tuple(f"{product}_{form}" for product in PRODUCTS))
        for form in WEIGHTS
    ),
    Module("rows.cu", (), ("embed", "norm_rows", "add_scaled", "finish_logits", "activate")),
    Module("attention.cu", (), ("remember", "attend", "attend_rows")),
    Module("sampler.cu", (), ("sample",)),
    Module("bdh.cu", (), ("phases", "recall", "gate", "gather", "look_up", "add_rows")),
    Module(
        "integer.cu",
        (),
        ("quantise", *(f"{bits}_bits_{rows}" for bits in ("four", "eight") for rows in (1, 4, 8))),
    ),
)


def modules_for(kind: str) -> tuple[Module, ...]:
    """Return the modules of a model; `kind` is that of its weights (`object_code.parts_of`), or "bdh"."""
    form = ("FORM", "float32" if kind in {"groups", "bdh"} else kind)
    special = {"integer.cu": "groups", "bdh.cu": "bdh"}
    return tuple(
        module
        for module in MODULES
        if (not module.macros or form in module.macros) and special.get(module.file, kind) == kind
    )


MODULE_OF = {kernel: module for module in MODULES for kernel in module.kernels}

Argument = int | np.int32 | np.float32
"""An argument of a kernel: an `int` is an address or a 64-bit number."""


class Driver(Protocol):
    """One GPU. Every call but `download` may return before its work is done; work runs in order."""

    @property
    def name(self) -> str:
        """The device as a person knows it, for records."""
        ...

    @property
    def processors(self) -> int:
        """The multiprocessors of the GPU, by which tiles are chosen; a choice changes no bit."""
        ...

    @property
    def shared_bytes(self) -> int:
        """The shared memory that one block may use, at most."""
        ...

    def free_bytes(self) -> int:
        """Return how much memory can still be allocated."""
        ...

    def allocate(self, nbytes: int) -> int:
        """Return the address of `nbytes` bytes of zeros, aligned to 256; MemoryError if there are too few."""
        ...

    def free(self, address: int) -> None:
        """Free what `allocate` returned."""
        ...

    def upload(self, address: int, array: np.ndarray) -> None:
        """Copy a contiguous array to the GPU; it may be changed afterwards."""
        ...

    def download(self, address: int, array: np.ndarray) -> None:
        """Fill a contiguous array from the GPU, when all earlier work is done."""
        ...

    def launch(
        self,
        kernel: str,
        blocks: tuple[int, int],
        threads: int,
        arguments: tuple[Argument, ...],
        *,
        shared: int = 0,
    ) -> None:
        """Run a kernel on a grid of blocks."""
        ...

    def graph(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record the launches of `work` without running them; return a function that runs them all."""
        ...
