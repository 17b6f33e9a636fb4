"""Plan how the matrices of a model are packed: the form and size of each, and the function that fills it.

A model is of one kind: all matrices float32, int8 or 16-bit floats, or each of them integers in groups of 32
or float32 (see `object_code.parts_of`). N columns, K depth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from niels_gpt.kernels import GroupForm
from niels_gpt.kernels.gpt_layout import BF16S, EIGHT_BITS, F16S, FLOATS, FOUR_BITS, INT8S
from niels_gpt.kernels.integer_layout import GROUP, Q4_GROUP_BYTES, Q8_CELL_BYTES, SCALE_BYTES
from niels_gpt.kernels.integer_packing import pack_q4, pack_q8, quantise_q4, quantise_q8, read_blocks
from niels_gpt.kernels.processor import CACHE_LINE, LANES, padded
from niels_gpt.model.int8 import quantised
from niels_gpt.model.weights import Weight, dequantise

QUANTISED = {"q8_0": EIGHT_BITS, "q4_0": FOUR_BITS, "q4_1": FOUR_BITS}
KIND_OF = {"bf16": "bf16", "f16": "f16", "f32": "float32"}


class Part(NamedTuple):
    """An array to be placed: its size, and the function that fills it."""

    floats: int
    make: Callable[[], np.ndarray]


def kind_of(weights: Iterable[Weight], weight_form: GroupForm) -> str:
    """Return the kind of a model with these matrices."""
    if weight_form != "stored":
        return weight_form if weight_form in {"float32", "int8"} else "groups"
    kinds = {weight.kind for weight in weights}
    if kinds & set(QUANTISED):
        return "groups"
    return KIND_OF[kinds.pop()] if len(kinds) == 1 else "float32"


@dataclass(frozen=True, kw_only=True)
class MatrixPlan:
    """The packing rules of one model's matrices."""

    kind: str
    weight_form: GroupForm

    def part(self, weight: Weight) -> tuple[int, Part]:
        """Return the code of one matrix (N, K), and the function that packs it."""
        N, K = weight.shape
        blocks = padded(N) // LANES
        if self.kind == "int8":
            return INT8S, Part(blocks * (LANES + LANES // 4 * K), lambda: pack_int8(dequantise(weight)))
        if self.kind in {"bf16", "f16"}:
            code = BF16S if self.kind == "bf16" else F16S
            return code, Part(blocks * K * LANES // 2, lambda: _halves(weight))
        code = self._code(weight) if self.kind == "groups" else FLOATS
        if code == FLOATS:
            return FLOATS, Part(blocks * K * LANES, lambda: pack(dequantise(weight)))
        G = K // GROUP
        if code == EIGHT_BITS:
            block = -(-G * SCALE_BYTES // CACHE_LINE) * CACHE_LINE + G * Q8_CELL_BYTES
            read = read_blocks if weight.kind == "q8_0" else lambda w: quantise_q8(dequantise(w))
            return code, Part(blocks * block // 4, lambda: pack_q8(read(weight)))
        read = read_blocks if weight.kind in QUANTISED else lambda w: quantise_q4(dequantise(w))
        return code, Part(blocks * G * Q4_GROUP_BYTES // 4, lambda: pack_q4(read(weight)))

    def _code(self, weight: Weight) -> int:
        if weight.shape[1] % GROUP:
            return FLOATS  # no whole groups
        if self.weight_form == "stored" or QUANTISED.get(weight.kind) is not None:
            return QUANTISED.get(weight.kind, FLOATS)
        return EIGHT_BITS if self.weight_form == "q8" else FOUR_BITS


def _halves(weight: Weight) -> np.ndarray:
    words = weight.data.view("<u2").astype(np.uint16, copy=False).reshape(weight.shape)
    if weight.kind == "f16" and ((words & 0x7C00) == 0x7C00).any():
        raise ValueError("a float16 weight is not finite")
    return pack_halves(words)


def pack_int8(weight: np.ndarray) -> np.ndarray:
    """Pack a quantised torch weight (N, K) as column blocks (ceil(N / 16), 16 + 4 K) in a float32 array.

    Each block holds the 16 scales, then for each k the 16 integers; columns beyond N are zero.
    """
    N, K = weight.shape
    integers, scales = np.zeros((padded(N), K), np.int8), np.zeros(padded(N), np.float32)
    integers[:N], scales[:N] = quantised(weight)
    blocks = integers.reshape(-1, LANES, K).transpose(0, 2, 1).reshape(-1, LANES * K)
    return np.concatenate([scales.reshape(-1, LANES), np.ascontiguousarray(blocks).view(np.float32)], axis=1)


def pack(weight: np.ndarray) -> np.ndarray:
    """Pack a torch weight (N, K) as column blocks (ceil(N / 16), K, 16) float32, padded with zeros."""
    N, K = weight.shape
    full = np.zeros((padded(N), K), np.float32)
    full[:N] = weight
    return np.ascontiguousarray(full.reshape(-1, LANES, K).transpose(0, 2, 1))


def pack_halves(words: np.ndarray) -> np.ndarray:
    """Pack 16-bit floats (N, K), given as uint16, as column blocks (ceil(N / 16), 8 K) in a float32 array."""
    N, K = words.shape
    full = np.zeros((padded(N), K), np.uint16)
    full[:N] = words
    blocks = full.reshape(-1, LANES, K).transpose(0, 2, 1).reshape(-1, LANES * K)
    return np.ascontiguousarray(blocks).view(np.float32)
