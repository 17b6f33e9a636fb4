"""Causal attention over the states of sequences, each query over exactly its own keys.

The state of a sequence with room for S positions (a multiple of 16) is one array of float32, layer after
layer: first the keys as (H, S / 16, D, 16), so that one vector holds 16 positions of one channel, then the
values as (H, E / 16, S, 16), with E the head's width D in whole vectors. Both are operands of `linear` as
they lie there.

A query's score of a key is the chain over the head's width, its mix of values the chain over positions 0 to
its own, both with k ascending; the weights' sum follows the tree of `rows`, and the mix is divided by it at
the end. So a query computes the same whether it comes alone or in a chunk, after whatever other steps.

H heads, D head width, S room.
"""

from __future__ import annotations

import numpy as np

from niels_gpt.kernels.jit import ONE, ZERO, compiled
from niels_gpt.kernels.linear import FLOAT32, VECTOR_BYTES, linear
from niels_gpt.kernels.row_ops import (
    divide_row,
    exp_row,
    largest_in_row,
    rotate_row,
    scatter_row,
    scatter_vectors,
)
from niels_gpt.kernels.simd_ir import LANES

GROUP = 4
"""Rows of one sequence that attend together; their scores take this many rows of S floats, and their sums."""


@compiled
def state_floats(H, D, S):
    """Floats of one layer's keys and values."""
    return H * S * (D + -(-D // LANES) * LANES)


@compiled
def remember(shape, cosine, sine, qkv, layer, rows, positions, states, rooms, first, last):
    """Turn queries and keys of heads `first` to `last` - 1; put keys and values into the states.

    Queries are also multiplied by 1 / sqrt(D), so that scores need no factor.
    """
    H, D, C = shape.H, shape.D, shape.C
    wide = -(-D // LANES) * LANES
    width, own = (last - first) * D, first * D  # the heads at hand, side by side
    one, factor = np.float32(1.0), np.float32(1.0) / np.sqrt(np.float32(D))
    for r in range(rows):
        p, S = positions[r], rooms[r]
        keys = states[r] + 4 * layer * state_floats(H, D, S)
        values = keys + 4 * H * S * D
        q = qkv + 4 * r * shape.qkv_row
        k, v = q + 4 * C, q + 8 * C
        turn = 4 * p * shape.table_row
        rotate_row(q + 4 * own, cosine + turn, sine + turn, width, shape.table_row, factor)
        rotate_row(k + 4 * own, cosine + turn, sine + turn, width, shape.table_row, one)
        for h in range(first, last):
            key = keys + 4 * (h * S * D + (p // LANES) * D * LANES + p % LANES)
            scatter_row(k + 4 * h * D, key, D, LANES)
            scatter_vectors(v + 4 * h * D, values + 4 * (h * wide * S + p * LANES), D, S * LANES)


@compiled
def attend(shape, zeros, scores, qkv, mixed, layer, first, rows, positions, states, rooms, head):
    """One head of rows `first` to `first + rows - 1`: at most GROUP consecutive positions of one sequence.

    Writes D floats of each row of `mixed`, and what is left of their last vector; so heads go in order.
    """
    H, D = shape.H, shape.D
    blocks = -(-D // LANES)
    p, S = positions[first], rooms[first]
    layer_keys = states[first] + 4 * layer * state_floats(H, D, S)
    keys = layer_keys + 4 * head * S * D
    values = layer_keys + 4 * (H * S * D + head * blocks * LANES * S)
    q = qkv + 4 * (first * shape.qkv_row + head * D)
    out = mixed + 4 * (first * shape.row + head * D)
    key_blocks = (p + rows - 1) // LANES + 1
    linear(FLOAT32, q, shape.qkv_row, keys, D * LANES, D, zeros, ZERO, scores, S, rows, ZERO, key_blocks)
    own = p + 1  # keys of the group's first row; each further row has one more
    sums = scores + 4 * GROUP * S
    for r in range(rows):
        row = scores + 4 * r * S
        exp_row(row, row, own + r, largest_in_row(row, own + r), sums + 4 * r)
    linear(FLOAT32, scores, S, values, S * LANES, own, zeros, ZERO, out, shape.row, rows, ZERO, blocks)
    for r in range(rows):
        row = out + 4 * r * shape.row
        if r:  # its own last keys, which the rows before it must not see: the same chains go on
            rest = scores + 4 * (r * S + own)
            linear(
                FLOAT32, rest, S, values + VECTOR_BYTES * own, S * LANES, r,
                row, ZERO, row, ZERO, ONE, ZERO, blocks,
            )  # fmt: skip
        divide_row(row, D, sums + 4 * r)
