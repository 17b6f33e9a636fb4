"""One number for a row of logits, and one line for all rows of a reply: a replay has the same bits, or not.

The sum of a row is taken modulo 2**64: the 32 bits of each number, as a whole number, times a multiplier of
its place. Rows that differ in one number have different sums; others collide with 2**-33 at worst.
SHA-256 over the rows themselves would cost several percent of a small model's speed. The kernels sum while a
row is in the cache (`niels_gpt.kernels.run`), to the same numbers. Knows nothing of tokens.

V vocabulary; "..." stands for any leading dimensions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from niels_gpt.splitmix import odd_numbers


def row_sums(rows: np.ndarray) -> np.ndarray:
    """Return uint64 (...) for rows (..., V) of float32 whose last axis is contiguous."""
    words = rows.astype(np.float32, copy=False).view(np.uint32)
    return np.einsum("...v,v->...", words, odd_numbers(rows.shape[-1]), dtype=np.uint64, casting="safe")


def logits_hash(sums: Sequence[int]) -> str:
    """Return SHA-256, in hex, over the sums of a reply's rows in order, each as 8 bytes, little-endian."""
    return hashlib.sha256(np.array(sums, "<u8").tobytes()).hexdigest()
