"""Tensors as files hold them: mapped, under the file's own names, before anything is renamed or reordered."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias, cast

import numpy as np

from niels_gpt.errors import NielsGptError
from niels_gpt.model.k_quants import K_BLOCKS, dequantise_k
from niels_gpt.model.weights import BLOCK_BYTES, GROUP, ITEM_BYTES, Weight, WeightKind, float32_weight


class CheckpointError(NielsGptError):
    """A model that is missing, damaged, inconsistent, or needs something that is not supported."""


class Stored(NamedTuple):
    """One tensor of a file."""

    kind: str
    """A `WeightKind`, "q4_k", "q5_k" or "q6_k", or the file's own name of a type that is not supported."""
    shape: tuple[int, ...]
    """As in torch: (rows, columns), rows outermost."""
    data: np.ndarray
    """(n,) uint8."""


StoredTensors: TypeAlias = Mapping[str, Stored]


def mapped(path: Path) -> np.ndarray:
    """Map a file as read-only bytes (n,) uint8; an empty file gives an empty array.

    Raises:
        CheckpointError: the file cannot be opened.

    """
    try:
        if path.stat().st_size == 0:
            return np.zeros(0, np.uint8)
        return np.memmap(path, np.uint8, mode="r")
    except OSError as error:
        raise CheckpointError(f"cannot read {str(path)!r}: {error.strerror or error}") from error


def stored_bytes(kind: str, shape: tuple[int, ...]) -> int | None:
    """Return the bytes of a tensor, or None where the kind is unknown or its blocks do not fit the shape."""
    if kind in ITEM_BYTES:
        return math.prod(shape) * ITEM_BYTES[kind]
    block = GROUP if kind in BLOCK_BYTES else K_BLOCKS.columns if kind in K_BLOCKS.sizes else 0
    if not block or not shape or shape[-1] % block:
        return None
    return math.prod(shape) // block * (BLOCK_BYTES.get(kind) or K_BLOCKS.sizes[kind])


def as_weight(stored: Stored) -> Weight:
    """Return a stored tensor as a weight; the kinds of 256 columns become float32, exactly."""
    if stored.kind in K_BLOCKS.sizes:
        return float32_weight(dequantise_k(stored.kind, stored.data).reshape(stored.shape))
    return Weight(cast("WeightKind", stored.kind), stored.shape, stored.data)


def release_pages(arrays: Iterable[np.ndarray]) -> None:
    """Let the system take back the memory of mapped files that these arrays are parts of.

    The arrays stay readable: what is read again comes from the file again.
    """
    maps: dict[int, mmap.mmap] = {}
    for array in arrays:
        owner: object = array
        while isinstance(owner, np.ndarray):
            owner = owner.base
        if isinstance(owner, mmap.mmap):
            maps[id(owner)] = owner
    for found in maps.values() if hasattr(mmap, "MADV_DONTNEED") else ():
        found.madvise(mmap.MADV_DONTNEED)
