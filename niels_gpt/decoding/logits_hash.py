"""Compute a sum of each row of logits and a hash over a reply's rows; equal hashes mean equal bits.

The sum of a row is taken modulo 2**64: the 32 bits of each number, as a whole number, times a multiplier of
its place. Rows that differ in one number have different sums; others collide with 2**-33 at worst. SHA-256
over the rows themselves would cost several percent of a small model's speed. The kernels sum while a row is
in the cache (`niels_gpt.kernels.decode_loop`), to the same numbers.

V vocabulary; "..." stands for any leading dimensions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache

import numpy as np


@cache
def row_multipliers(count: int) -> np.ndarray:
    """Return the multipliers of a row's places, uint64 (count,), odd and read only.

    They are the first numbers of SplitMix64 (Steele et al. 2014, doi.org/10.1145/2660193.2660195) from
    state 0, made odd. Recorded hashes depend on them, so they never change.
    """
    state = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    numbers = (state ^ (state >> np.uint64(31))) | np.uint64(1)
    numbers.flags.writeable = False
    return numbers


def row_sums(rows: np.ndarray) -> np.ndarray:
    """Return uint64 (...) for rows (..., V) of float32 whose last axis is contiguous."""
    words = rows.astype(np.float32, copy=False).view(np.uint32)
    return np.einsum("...v,v->...", words, row_multipliers(rows.shape[-1]), dtype=np.uint64, casting="safe")


def logits_hash(sums: Sequence[int]) -> str:
    """Return SHA-256, in hex, over the sums of a reply's rows in order, each as 8 bytes, little-endian."""
    return hashlib.sha256(np.array(sums, "<u8").tobytes()).hexdigest()
