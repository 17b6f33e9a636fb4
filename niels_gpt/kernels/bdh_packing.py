"""Pack a BDH's weights for its kernels, and allocate its state and the arrays of a step.

The interface is that of `gpt_packing.PackedModel`, so that one decoder drives both. Weights have the names of
`niels_gpt.model.bdh`.

L times the layer, H heads, N latents of a head, C width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from niels_gpt.kernels import KERNEL_VERSION
from niels_gpt.kernels.gpt_layout import BARRIER_INTEGERS, Rows
from niels_gpt.kernels.matrix_packing import pack
from niels_gpt.kernels.processor import aligned, padded
from niels_gpt.model.config import NO_LIMIT

if TYPE_CHECKING:
    from niels_gpt.model.bdh import BDH
    from niels_gpt.model.config import ModelConfig


class BDHShape(NamedTuple):
    """Sizes of a model, and the row strides of its workspace in floats (whole vectors)."""

    L: int
    H: int
    N: int
    C: int
    V: int
    row: int
    """Rows of C floats, a memory's too."""
    head_row: int
    """Rows of V floats."""


class BDHWeights(NamedTuple):
    """Addresses of one model's packed weights."""

    embedding: int
    encoder: int
    """(H * N / 16, C, 16): all heads' columns side by side."""
    gates: int
    """(H, N / 16, C, 16): each head's columns of `encoder_v`."""
    decoder: int
    """(H * N, row): rows as they are, to be read where latents are not zero."""
    head: int
    frequencies: np.ndarray
    """(N,) float64, padded with zeros."""
    ones: int
    zeros: int


class BDHWork(NamedTuple):
    """Addresses of scratch space for the rows of a step, and arrays; shared by all parts unless noted."""

    x: int
    latents: int
    """Rows of H * N floats; so has `gates`."""
    gates: int
    mixed: int
    """Rows of H * row floats."""
    out: int
    cosine: np.ndarray
    """(rows, N) float32; so is `sine`."""
    sine: np.ndarray
    turned: np.ndarray
    """(parts, N) float32: the rotated latents of one head."""
    active: np.ndarray
    """(parts, H * N + 1) int64: the indices of those that are not zero."""
    barrier: int
    stop: np.ndarray
    """(1,): whether part 0 found that the call must end."""


class PackedBDH:
    """A BDH's weights, packed: `shape` and `weights` are what the kernels take."""

    T = NO_LIMIT
    may_split = True
    arch = kind = "bdh"
    version = KERNEL_VERSION

    def __init__(self, cfg: ModelConfig, state: Mapping[str, np.ndarray]) -> None:
        """Pack the parameters and the frequencies of a BDH, float32 by name."""
        own = cfg.d_ff // cfg.H
        N, C = padded(own), cfg.C
        self.shape = BDHShape(
            L=cfg.L, H=cfg.H, N=N, C=C, V=cfg.V, row=padded(C), head_row=padded(cfg.V)
        )  # fmt: skip
        columns, gates = np.zeros((cfg.H, N, C), np.float32), np.zeros((cfg.H, N, C), np.float32)
        columns[:, :own] = state["encoder"].transpose(0, 2, 1)
        gates[:, :own] = state["encoder_v"].transpose(0, 2, 1)
        decoder = np.zeros((cfg.H, N, self.shape.row), np.float32)
        decoder[:, :own, :C] = state["decoder"].reshape(cfg.H, own, C)
        embedding = np.zeros((cfg.V, self.shape.row), np.float32)
        embedding[:, :C] = state["embed.weight"]
        ones = np.zeros(self.shape.row, np.float32)
        ones[:C] = 1.0
        arrays = (
            embedding, pack(columns.reshape(-1, C)), np.stack([pack(head) for head in gates]), decoder,
            pack(state["lm_head"].T), ones, np.zeros(max(cfg.H * N, padded(cfg.V), self.shape.row)),
        )  # fmt: skip
        self._memory = aligned(sum(padded(array.size) for array in arrays))
        addresses, used = [], 0
        for array in arrays:
            place = self._memory[used : used + array.size]
            place[...] = array.reshape(-1)
            addresses.append(place.ctypes.data)
            used += padded(array.size)
        frequencies = np.zeros(N)
        frequencies[:own] = state["attn.freqs"].reshape(-1)
        *weights, unit, zeros = addresses
        self.weights = BDHWeights(*weights, frequencies=frequencies, ones=unit, zeros=zeros)

    @property
    def memory(self) -> np.ndarray:
        """All packed weights, float32; the addresses of `weights` point into it."""
        return self._memory

    @property
    def nbytes(self) -> int:
        """The bytes of all packed weights."""
        return self._memory.nbytes

    @property
    def state_bytes(self) -> int:
        """The bytes of one sequence's state, independent of its length."""
        shape = self.shape
        return 4 * shape.L * shape.H * shape.N * shape.row

    def new_state(self, positions: int) -> tuple[np.ndarray, int]:
        """Return (memories of all layers and heads, 0); their size does not depend on the positions."""
        del positions
        return aligned(self.state_bytes // 4), 0

    def new_memory(self, *, rows: int, room: int, parts: int) -> BDHMemory:
        """Allocate the arrays for steps of at most `rows` rows on `parts` threads."""
        del room
        return BDHMemory(self.shape, rows=rows, parts=parts)


class BDHMemory:
    """The arrays of a step; any number of positions fits."""

    room = NO_LIMIT

    def __init__(self, shape: BDHShape, *, rows: int, parts: int) -> None:
        self.rows, self.parts = rows, parts
        H, N = shape.H, shape.N
        sizes = (shape.row, H * N, H * N, H * shape.row, shape.row)
        shared = [aligned(rows * size) for size in sizes]
        barrier = np.zeros(BARRIER_INTEGERS, np.int64)
        self._arrays = [*shared, barrier]
        self.work = BDHWork(
            *(array.ctypes.data for array in shared),
            cosine=np.zeros((rows, N), np.float32),
            sine=np.zeros((rows, N), np.float32),
            turned=np.zeros((parts, N), np.float32),
            active=np.zeros((parts, H * N + 1), np.int64),
            barrier=barrier.ctypes.data,
            stop=np.zeros(1, np.int64),
        )


def example_step() -> tuple[BDHShape, BDHWeights, BDHWork, Rows]:
    """Return arguments of the types that the kernels take, for no computation."""
    shape, numbers = BDHShape(L=1, H=1, N=16, C=16, V=16, row=16, head_row=16), np.zeros(1, np.int64)
    numbers_or_arrays: dict[str, Any] = dict.fromkeys(BDHWeights._fields, 0)
    numbers_or_arrays |= {"frequencies": np.zeros(16)}
    weights = BDHWeights(**numbers_or_arrays)
    return shape, weights, BDHMemory(shape, rows=1, parts=1).work, Rows(numbers, numbers, numbers, numbers)


def pack_bdh(model: BDH) -> PackedBDH:
    """Return the packed weights of a torch model."""
    state = {name: tensor.detach().cpu().float().numpy() for name, tensor in model.state_dict().items()}
    return PackedBDH(model.cfg, state)
