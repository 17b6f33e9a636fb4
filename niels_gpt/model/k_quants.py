"""GGUF's quantised blocks of 256 columns, Q4_K, Q5_K and Q6_K, as float32.

The scales are products of a float16 of the block and a small integer of its part, taken in float32; so is
every weight: w = scale * q - minimum (Q4_K, Q5_K), w = scale * (q - 32) (Q6_K), one rounding an operation.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class _KBlocks(NamedTuple):
    columns: int
    sizes: dict[str, int]


K_BLOCKS = _KBlocks(columns=256, sizes={"q4_k": 144, "q5_k": 176, "q6_k": 210})


def dequantise_k(kind: str, raw: np.ndarray) -> np.ndarray:
    """Return the values of blocks.

    Args:
        kind: "q4_k", "q5_k" or "q6_k".
        raw: (n,) uint8, whole blocks.

    Returns:
        (blocks, 256) float32.

    """
    blocks = raw.reshape(-1, K_BLOCKS.sizes[kind])
    return {"q4_k": _q4_k, "q5_k": _q5_k, "q6_k": _q6_k}[kind](blocks)


def _half(pair: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pair).view("<f2").astype(np.float32)


def _scales(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unpack 12 bytes a block into 8 scales and 8 minimums of six bits, (blocks, 8) uint8 each."""
    first, second, third = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scale = np.concatenate((first & 63, (third & 15) | ((first >> 6) << 4)), axis=1)
    minimum = np.concatenate((second & 63, (third >> 4) | ((second >> 6) << 4)), axis=1)
    return scale, minimum


def _low_high(packed: np.ndarray) -> np.ndarray:
    """Split (blocks, 128) bytes into (blocks, 8, 32) numbers: 32 low halves, then their 32 high ones."""
    parts = packed.reshape(-1, 4, 1, 32)
    return np.concatenate((parts & 15, parts >> 4), axis=2).reshape(-1, 8, 32)


def _with_minimum(blocks: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    scale, minimum = _scales(blocks[:, 4:16])
    d = _half(blocks[:, 0:2]) * scale.astype(np.float32)
    m = _half(blocks[:, 2:4]) * minimum.astype(np.float32)
    return (d[:, :, None] * numbers.astype(np.float32) - m[:, :, None]).reshape(-1, 256)


def _q4_k(blocks: np.ndarray) -> np.ndarray:
    return _with_minimum(blocks, _low_high(blocks[:, 16:144]))


def _q5_k(blocks: np.ndarray) -> np.ndarray:
    bits = np.arange(8, dtype=np.uint8).reshape(1, 8, 1)
    fifth = (blocks[:, None, 16:48] >> bits) & 1
    return _with_minimum(blocks, _low_high(blocks[:, 48:176]) | (fifth << 4))


def _q6_k(blocks: np.ndarray) -> np.ndarray:
    low = blocks[:, :128].reshape(-1, 2, 1, 64)
    low = np.concatenate((low & 15, low >> 4), axis=2).reshape(-1, 8, 32)
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)
    high = (blocks[:, 128:192].reshape(-1, 2, 1, 32) >> shifts) & 3
    numbers = (low | (high.reshape(-1, 8, 32) << 4)).astype(np.int8) - np.int8(32)
    scale = _half(blocks[:, 208:210]) * blocks[:, 192:208].view(np.int8).astype(np.float32)  # (blocks, 16)
    return (scale[:, :, None] * numbers.reshape(-1, 16, 16).astype(np.float32)).reshape(-1, 256)
