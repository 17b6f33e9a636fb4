"""Quantise weights to integers in groups of 32 by a fixed rule, or read them from GGUF's blocks; pack them.

Q8 is d * q with q in [-127, 127]; Q4 is d * q + low with q in 0 to 15; d and low are float16. GGUF's q8_0 and
q4_1 are these numbers as they are. q4_0, d * (q - 8), is Q4 with low = -8 d.

N columns, K depth, G = K / 32 groups.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from niels_gpt.kernels.integer_layout import GROUP, OFFSET, Q4_GROUP_BYTES, Q8_CELL_BYTES, SCALE_BYTES
from niels_gpt.kernels.processor import LANES
from niels_gpt.model.weights import BLOCK_BYTES, Weight

RULE = 1
"""The version of the rule by which floats become integers; it is part of a quantised model's fingerprint."""


class Quantised(NamedTuple):
    """A torch weight (N, K) in integers."""

    scale: np.ndarray
    """(N, G) float16."""
    low: np.ndarray | None
    """(N, G) float16 for four bits; None for eight."""
    q: np.ndarray
    """(N, K) int8, or uint8 in 0 to 15."""


def quantise_q8(weight: np.ndarray) -> Quantised:
    """Quantise (N, K) float32: of each group d = float16(largest / 127), q = w * (127 / largest).

    q is rounded to the nearest, ties to even: the rule of GGUF's q8_0 except for ties. Raises ValueError for
    weights that float16 scales cannot hold.
    """
    groups = weight.reshape(len(weight), -1, GROUP).astype(np.float32, copy=False)
    largest = np.abs(groups).max(2)
    scale = _half(largest / np.float32(127))
    usable = scale > 0
    inverse = np.float32(127) / np.where(usable, largest, np.float32(1))
    q = np.rint(np.where(usable[..., None], groups, np.float32(0)) * inverse[..., None])
    return Quantised(scale, None, np.clip(q, -127, 127).astype(np.int8).reshape(weight.shape))


def quantise_q4(weight: np.ndarray) -> Quantised:
    """Quantise (N, K) float32: of each group low = float16(least), d = float16((most - least) / 15).

    q is the nearest even of (w - low) / d, computed with the rounded d and low, within 0 to 15. Raises
    ValueError for weights that float16 numbers cannot hold.
    """
    groups = weight.reshape(len(weight), -1, GROUP).astype(np.float32, copy=False)
    least, most = groups.min(2), groups.max(2)
    low, scale = _half(least + np.float32(0)), _half((most - least) / np.float32(15))
    usable = scale > 0
    divisor = np.where(usable, scale.astype(np.float32), np.float32(1))
    above = np.where(usable[..., None], groups - low.astype(np.float32)[..., None], np.float32(0))
    q = np.clip(np.rint(above / divisor[..., None]), 0, 15)
    return Quantised(scale, low, q.astype(np.uint8).reshape(weight.shape))


def read_blocks(weight: Weight) -> Quantised:
    """Read GGUF's blocks without loss; raise ValueError for scales that are not finite."""
    blocks = weight.data.reshape(weight.shape[0], -1, BLOCK_BYTES[weight.kind])

    def half(first: int) -> np.ndarray:
        return np.ascontiguousarray(blocks[..., first : first + 2]).view("<f2")[..., 0]

    scale = half(0)
    if weight.kind == "q8_0":
        q = np.ascontiguousarray(blocks[..., 2:]).view(np.int8).reshape(weight.shape)
        if (q == -128).any():
            raise ValueError("a q8_0 weight holds -128, expected integers from -127 to 127")
        return _checked(Quantised(scale, None, q))
    first = 4 if weight.kind == "q4_1" else 2
    q = np.concatenate([blocks[..., first:] & 15, blocks[..., first:] >> 4], axis=2).reshape(weight.shape)
    with np.errstate(over="ignore"):  # to infinity, which is refused
        low = half(2) if weight.kind == "q4_1" else scale * np.float16(-8)
    return _checked(Quantised(scale, low, q))


def pack_q8(weight: Quantised) -> np.ndarray:
    """Pack into blocks (ceil(N / 16), bytes) uint8; columns beyond N are zero."""
    scale, q = _whole_blocks(weight.scale), _whole_blocks(weight.q)
    G, B = weight.scale.shape[1], len(q) // LANES
    scales = -(-G * SCALE_BYTES // 64) * 64
    out = np.zeros((B, scales + G * Q8_CELL_BYTES), np.uint8)
    out[:, : G * SCALE_BYTES] = _by_block(scale).reshape(B, -1)
    cells = q.reshape(B, LANES, G, 8, 4).transpose(0, 2, 3, 1, 4).reshape(B, -1)
    out[:, scales:] = cells.view(np.uint8) ^ np.uint8(OFFSET)  # + 128, modulo 256
    return out


def pack_q4(weight: Quantised) -> np.ndarray:
    """Pack into blocks (ceil(N / 16), bytes) uint8; columns beyond N are zero."""
    if weight.low is None:
        raise ValueError("got weights of eight bits, expected four")
    scale, low, q = (_whole_blocks(each) for each in (weight.scale, weight.low, weight.q))
    G, B = weight.scale.shape[1], len(q) // LANES
    out = np.zeros((B, G, Q4_GROUP_BYTES), np.uint8)
    out[:, :, :SCALE_BYTES] = _by_block(scale)
    out[:, :, SCALE_BYTES : 2 * SCALE_BYTES] = _by_block(low)
    cells = q.reshape(B, LANES, G, 8, 4).transpose(0, 2, 3, 1, 4)
    out[:, :, 2 * SCALE_BYTES :] = (cells[:, :, :4] | cells[:, :, 4:] << 4).reshape(B, G, -1)
    return out.reshape(B, -1)


def _by_block(halves: np.ndarray) -> np.ndarray:
    """Rearrange (N, G) float16 as (N / 16, G, 32) bytes."""
    G = halves.shape[1]
    turned = np.ascontiguousarray(halves.reshape(-1, LANES, G).transpose(0, 2, 1))
    return turned.astype("<f2", copy=False).view(np.uint8)


def _whole_blocks(array: np.ndarray) -> np.ndarray:
    N = len(array)
    if N % LANES == 0:
        return array
    return np.concatenate([array, np.zeros((-N % LANES, *array.shape[1:]), array.dtype)])


def _half(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # to infinity, which is refused
        halves = values.astype(np.float16)
    if not np.isfinite(halves).all():
        raise ValueError("a weight is too large for float16 scales, or not finite")
    return halves


def _checked(weight: Quantised) -> Quantised:
    if not np.isfinite(weight.scale).all() or (weight.low is not None and not np.isfinite(weight.low).all()):
        raise ValueError("a scale is not finite")
    return weight
