"""The data of a step: a model's shape and weights, its workspace, and the rows that it computes.

`Shape` has the numbers in which families of transformers differ (see `niels_gpt.model.form`), `PLACES` the
addresses of a layer's parts, where 0 stands for an absent part.

L layers, H heads of queries, KV heads of keys and values, D head width, C width, F MLP width, V vocabulary, S
positions of a state.
"""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import numpy as np

from niels_gpt.kernels.processor import LANES

GELU, GELU_TANH, SILU, RELU, RELU_SQUARED = range(5)
"""Activations of the MLP."""
IN_TURN, TWO_NORMS, ONE_NORM = range(3)
"""How the MLP follows attention: after it, or in parallel on the same input with one norm or one each."""
FEW_ROWS = 4
"""Up to this many rows each part norms all of them for itself; more rows are divided between the parts."""
HEAD_NORM, ROW_NORM, NORM_AFTER = 1, 2, 3
"""Where queries and keys are normed: per head or all heads as one row before the rotation, or after it."""
ROWS, FLOATS, BF16S, F16S, FOUR_BITS, EIGHT_BITS, INT8S = range(7)
"""Codes of matrices: float32 rows in torch's layout, and column blocks of 16 in each form."""
BARRIER_INTEGERS = 16
"""Integers to allocate for one barrier: the counter has a cache line, generation and flag have another."""
GROUP_ROWS, MOST_POSITIONS = 32, 16

PLACES = (
    "attn_in", "attn_in_shift", "attn_out", "attn_out_shift", "mlp_in", "mlp_in_shift", "mlp_out",
    "mlp_out_shift", "q_norm", "q_shift", "k_norm", "k_shift", "q", "q_code", "q_bias", "k", "k_code",
    "k_bias", "v", "v_code", "v_bias", "proj", "proj_code", "proj_bias", "up", "up_code", "up_bias",
    "gate", "gate_code", "gate_bias", "down", "down_code", "down_bias", "cosine", "sine", "window",
)  # fmt: skip
"""A layer: addresses of its norms, biases and tables, of its packed matrices with their codes (see
`matrices`), and how many positions a token sees (`window`, 0: all earlier ones)."""
(
    ATTN_IN, ATTN_IN_SHIFT, ATTN_OUT, ATTN_OUT_SHIFT, MLP_IN, MLP_IN_SHIFT, MLP_OUT,
    MLP_OUT_SHIFT, Q_NORM, Q_SHIFT, K_NORM, K_SHIFT, Q, Q_CODE, Q_BIAS, K, K_CODE, K_BIAS, V,
    V_CODE, V_BIAS, PROJ, PROJ_CODE, PROJ_BIAS, UP, UP_CODE, UP_BIAS, GATE, GATE_CODE,
    GATE_BIAS, DOWN, DOWN_CODE, DOWN_BIAS, COSINE, SINE, WINDOW,
) = range(len(PLACES))  # fmt: skip


class Shape(NamedTuple):
    """Sizes and form of a model, and the row strides of its workspace in floats (whole vectors)."""

    L: int
    H: int
    KV: int
    D: int
    C: int
    F: int
    V: int
    rms: bool
    """RMSNorm, else LayerNorm."""
    gated: bool
    mlp: int
    """The MLP's activation."""
    qk_norm: int
    """0 for none; see `attention`."""
    parallel: int
    from_residual: bool
    """Whether products that end in the residual stream start from its values instead of being added to it."""
    norm_eps: np.float32
    score_factor: np.float32
    """Of queries times keys."""
    score_cap: np.float32
    qk_scale: np.float32
    embed_scale: np.float32
    residual_scale: np.float32
    head_scale: np.float32
    head_cap: np.float32
    row: int
    """Rows of C floats."""
    q_row: int
    """Rows of H D floats."""
    kv_row: int
    """Rows of KV D floats."""
    mixed_row: int
    """Rows of H D floats that heads are written to in order."""
    mlp_row: int
    """Rows of F floats."""
    head_row: int
    """Rows of V floats."""
    table_row: int
    """Rows of the rotary tables."""
    record_row: int
    """Bytes of the longest row as integers; 0 if no product reads integers."""


class Products(NamedTuple):
    """Addresses of compiled products, see `matrices`."""

    floats: int
    """Of float32 weights in column blocks; attention uses it too."""
    others: int
    """Of the model's matrices in other forms, 0 if it has none."""


class Weights(NamedTuple):
    """Addresses of one model's packed weights."""

    products: Products
    """Addresses of the compiled products."""
    attention: int
    """The address of the compiled `attention`."""
    embedding: int
    embedding_code: int
    positions: int
    """Learned positions, rows of `Shape.row` floats."""
    embed_norm: int
    embed_shift: int
    layers: np.ndarray
    """(L, PLACES) int64."""
    final_scale: int
    final_shift: int
    head: int
    head_code: int
    head_bias: int
    zeros: int
    """As many zeros as the longest row: the start of a product without a bias."""


class Workspace(NamedTuple):
    """Addresses of scratch space for the rows of a step, shared by all parts unless noted."""

    x: int
    q: int
    k: int
    v: int
    mixed: int
    added: int
    """What attention and MLP add to the residual stream if products do not start from it."""
    up: int
    gate: int
    normed: np.ndarray
    """(parts,): each part's own rows; part 0's are used by all if rows are divided."""
    records: np.ndarray
    """(parts,): the same as integers."""
    spare: np.ndarray
    """(parts,): each part's own scratch row."""
    scores: np.ndarray
    """(parts,): each part's own `group_floats`."""
    positions: int
    """The largest number of positions of a sequence that attend together."""
    barrier: int
    stop: np.ndarray
    """(1,): whether part 0 found that the call must end."""


class Rows(NamedTuple):
    """The rows of a step; rows of one sequence are adjacent, in order of their positions."""

    ids: np.ndarray
    positions: np.ndarray
    states: np.ndarray
    rooms: np.ndarray


def state_floats(KV: int, D: int, S: int) -> int:
    """Return the number of floats of one layer's keys and values."""
    return KV * S * (D + -(-D // LANES) * LANES)


def group_positions(shape: Shape) -> int:
    """Return how many positions of one sequence attend together, for all heads that share keys and values."""
    return max(1, min(MOST_POSITIONS, GROUP_ROWS // (shape.H // shape.KV)))


def group_floats(shape: Shape, room: int) -> int:
    """Return the scratch floats of a group: its rows' scores, their sums, its queries and mixed values."""
    rows, wide = group_positions(shape) * (shape.H // shape.KV), -(-shape.D // LANES) * LANES
    return rows * room + -(-rows // LANES) * LANES + 2 * rows * wide


def release(barrier: int) -> None:
    """Let all threads pass this barrier from now on; it cannot be used again."""
    # Plain Python: after a failure nothing should have to be compiled first.
    ctypes.c_int64.from_address(barrier + 72).value = 1
