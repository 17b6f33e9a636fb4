"""One step of a GPT for any mixture of rows: new tokens and chunks of prompts, each at its own position.

A row is one token of one sequence: its id, its position, the address and the room of its sequence's state.
Nothing in a row's arithmetic looks at another row, so what else is in the step cannot change its bits.

Several threads may run the same step: part p of P computes its own heads and its own columns of every
product. No sum is ever split, so P cannot change a bit either. They wait at four barriers a layer; what is
cheap (norms) each part computes for itself.

L layers, H heads, D head width, C width, F MLP width, V vocabulary, S room of a state.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from niels_gpt.kernels.attention import GROUP, attend, remember
from niels_gpt.kernels.barrier import wait
from niels_gpt.kernels.jit import ONE, ZERO, compiled, inlined
from niels_gpt.kernels.linear import VECTOR_BYTES, block_floats, linear
from niels_gpt.kernels.row_ops import add_row, copy_row, gelu_row, layer_norm_row, rms_norm_row, swiglu_row
from niels_gpt.kernels.simd_ir import LANES

NORM_EPS = np.float32(1e-5)


class Shape(NamedTuple):
    """Sizes and form of a model, and the row strides of its workspace in floats (whole vectors)."""

    L: int
    H: int
    D: int
    C: int
    F: int
    V: int
    rms: bool
    """RMSNorm, else LayerNorm."""
    gated: bool
    """SwiGLU, else GELU."""
    row: int
    """Rows of C floats."""
    qkv_row: int
    """Rows of 3 C floats."""
    mlp_row: int
    """Rows of F floats."""
    head_row: int
    """Rows of V floats."""
    table_row: int
    """Rows of the rotary tables."""


class Weights(NamedTuple):
    """Addresses of one model's packed weights; `layers` (L, 12) in the order of the names below."""

    kind: np.float32 | np.int8
    """FLOAT32 or INT8 of `linear`: how linear layers and the head are packed; all else is float32."""
    embedding: int
    layers: np.ndarray
    final_scale: int
    final_shift: int
    head: int
    cosine: int
    sine: int
    zeros: int
    """As many zeros as the longest row: the start of a product without a bias."""


NORM1, SHIFT1, QKV, PROJ, NORM2, SHIFT2, UP, UP_BIAS, GATE, GATE_BIAS, DOWN, DOWN_BIAS = range(12)


class Workspace(NamedTuple):
    """Addresses of room for the rows of a step, shared by all parts unless said."""

    x: int
    qkv: int
    mixed: int
    up: int
    gate: int
    normed: np.ndarray
    """(parts,): each part's own norms."""
    scores: np.ndarray
    """(parts,): each part's own attention weights: GROUP rows of the largest room, and their sums."""
    barrier: int
    stop: np.ndarray
    """(1,): whether part 0 found that the call must end."""


class Rows(NamedTuple):
    """The rows of a step; rows of one sequence stand together, in order of their positions."""

    ids: np.ndarray
    positions: np.ndarray
    states: np.ndarray
    rooms: np.ndarray


@compiled
def forward(shape, weights, work, rows, wanted, logits, part, parts):
    """All rows through the model; logits of row wanted[i] become row i of `logits`, of `head_row` floats."""
    count = rows.ids.size
    normed = work.normed[part]
    for r in range(count):
        row = work.x + 4 * r * shape.row
        copy_row(weights.embedding + 4 * rows.ids[r] * shape.row, row, shape.C)
    column_blocks = -(-shape.C // LANES)
    first, last = _share(column_blocks, part, parts)
    for layer in range(shape.L):
        w = weights.layers[layer]
        _norm(shape, w[NORM1], w[SHIFT1], work.x, normed, count)
        _attention(shape, weights, w[QKV], work, rows, layer, part, parts)
        wait(work.barrier, parts)
        _product(
            weights, work.mixed, shape.row, w[PROJ], shape.C,
            work.x, shape.row, work.x, shape.row, count, first, last,
        )  # fmt: skip
        wait(work.barrier, parts)
        _norm(shape, w[NORM2], w[SHIFT2], work.x, normed, count)
        _mlp_up(shape, weights, w, work, normed, count, part, parts)
        wait(work.barrier, parts)
        for r in range(count):
            own = VECTOR_BYTES * first
            width = min(last * LANES, shape.C) - first * LANES
            add_row(w[DOWN_BIAS] + own, work.x + 4 * r * shape.row + own, width)
        _product(
            weights, work.up, shape.mlp_row, w[DOWN], shape.F,
            work.x, shape.row, work.x, shape.row, count, first, last,
        )  # fmt: skip
        wait(work.barrier, parts)
    for i in range(wanted.size):
        row, out = work.x + 4 * wanted[i] * shape.row, normed + 4 * i * shape.row
        _norm(shape, weights.final_scale, weights.final_shift, row, out, ONE)
    first, last = _share(-(-shape.V // LANES), part, parts)
    _product(
        weights, normed, shape.row, weights.head, shape.C,
        weights.zeros, ZERO, logits, shape.head_row, wanted.size, first, last,
    )  # fmt: skip
    wait(work.barrier, parts)


@inlined
def _product(weights, x, x_row, w, depth, start, start_row, y, y_row, rows, first, last):
    """`linear` over a whole packed weight of the model's kind."""
    block = block_floats(weights.kind, depth)
    linear(weights.kind, x, x_row, w, block, depth, start, start_row, y, y_row, rows, first, last)


@inlined
def _share(blocks, part, parts):
    """Which of `blocks` column blocks are this part's."""
    return blocks * part // parts, blocks * (part + 1) // parts


@inlined
def _norm(shape, scale, shift, x, y, rows):
    size = np.float32(shape.C)
    for r in range(rows):
        at = 4 * r * shape.row
        if shape.rms:
            rms_norm_row(x + at, scale, y + at, shape.C, size, NORM_EPS)
        else:
            layer_norm_row(x + at, scale, shift, y + at, shape.C, size, NORM_EPS)


@inlined
def _attention(shape, weights, qkv_weight, work, rows, layer, part, parts):
    """From norms to mixed values for the heads of one part; it reads no other part's heads."""
    H, D, C, count = shape.H, shape.D, shape.C, rows.ids.size
    first, last = _share(H, part, parts)
    if parts == 1:
        _project(shape, weights, qkv_weight, work, part, count, ZERO, -(-3 * C // LANES))
    else:  # heads are whole blocks here, see `may_split`
        for third in range(3):
            start = third * C
            _project(
                shape, weights, qkv_weight, work, part, count,
                (start + first * D) // LANES, (start + last * D) // LANES,
            )  # fmt: skip
    remember(
        shape, weights.cosine, weights.sine, work.qkv, layer, count,
        rows.positions, rows.states, rows.rooms, first, last,
    )  # fmt: skip
    group = ZERO
    while group < count:
        n = 1
        while n < GROUP and group + n < count and rows.states[group + n] == rows.states[group]:
            n += 1
        for head in range(first, last):
            attend(
                shape, weights.zeros, work.scores[part], work.qkv, work.mixed, layer, group, n,
                rows.positions, rows.states, rows.rooms, head,
            )  # fmt: skip
        group += n


@inlined
def _project(shape, weights, qkv_weight, work, part, count, first, last):
    _product(
        weights, work.normed[part], shape.row, qkv_weight, shape.C,
        weights.zeros, ZERO, work.qkv, shape.qkv_row, count, first, last,
    )  # fmt: skip


@inlined
def _mlp_up(shape, weights, w, work, normed, count, part, parts):
    """One part's columns of the MLP's inner rows, activation included."""
    first, last = _share(-(-shape.F // LANES), part, parts)
    _product(
        weights, normed, shape.row, w[UP], shape.C,
        w[UP_BIAS], ZERO, work.up, shape.mlp_row, count, first, last,
    )  # fmt: skip
    if shape.gated:
        _product(
            weights, normed, shape.row, w[GATE], shape.C,
            w[GATE_BIAS], ZERO, work.gate, shape.mlp_row, count, first, last,
        )  # fmt: skip
    width = (last - first) * LANES
    for r in range(count):
        at = 4 * r * shape.mlp_row + VECTOR_BYTES * first
        if shape.gated:
            swiglu_row(work.gate + at, work.up + at, width)
        else:
            gelu_row(work.up + at, width)
