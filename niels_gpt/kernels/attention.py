"""Compute causal attention over the states of sequences, each query over exactly its own keys.

The state of a sequence with room for S positions (a multiple of 16) is one array of float32, layer after
layer: first the keys as (KV, S / 16, D, 16), so that one vector holds 16 positions of one channel, then the
values as (KV, E / 16, S, 16), with E the head's width D in whole vectors. Both are operands of `linear` in
this layout. Queries of several heads that share keys and values are processed together.

A query's score of a key is the chain over the head's width, its mix of values the chain over the positions
that it sees, both with k ascending; the weights' sum follows the tree of `row_ops` over lanes of positions
modulo 16, and the mix is divided by it at the end. So the result of a query is the same alone and in a chunk,
whichever steps came before.

H heads of queries, KV heads of keys and values, D head width, S room.
"""

from __future__ import annotations

import numpy as np

from niels_gpt.kernels.gpt_layout import HEAD_NORM, NORM_AFTER, ROW_NORM, state_floats
from niels_gpt.kernels.jit import ZERO, inner
from niels_gpt.kernels.matrices import float_product
from niels_gpt.kernels.processor import LANES, VECTOR_BYTES
from niels_gpt.kernels.row_ops import (
    cap_row,
    copy_row,
    divide_row,
    exp_row,
    fill_row,
    largest_in_row,
    layer_norm_row,
    put_row,
    rms_norm_row,
    rotate_row,
    scale_row,
    scatter_row,
    scatter_vectors,
)

layer_floats = inner(state_floats)

TAIL = np.int64(4)  # positions that rows of a group see together, beyond those that all see
NEGATIVE_INFINITY = np.float32(-np.inf)


@inner
def _norm_in_place(shape, x, scale, shift, count, spare):
    size = np.float32(count)
    if shape.rms:
        rms_norm_row(x, scale, spare, count, size, shape.norm_eps)
    else:
        layer_norm_row(x, scale, shift, spare, count, size, shape.norm_eps)
    put_row(spare, x, count)


@inner
def _norm_heads(shape, x, scale, shift, heads, spare):
    for h in range(heads):
        _norm_in_place(shape, x + 4 * h * shape.D, scale, shift, shape.D, spare)


@inner
def remember(
    shape, cosine, sine, q_norm, q_shift, k_norm, k_shift, q, k, v, layer, position, state, S, first,
    last, spare,
):  # fmt: skip
    """Norm and rotate one row's queries and keys of key heads `first` to `last` - 1; store keys and values.

    Queries are also multiplied by the factor of the scores. `q`, `k` and `v` are the addresses of the row's
    parts, `spare` is scratch space for a row; norms and tables that the layer lacks are 0.
    """
    KV, D = shape.KV, shape.D
    heads = (last - first) * (shape.H // KV)
    wide, own = -(-D // LANES) * LANES, last - first
    own_q, own_k = q + 4 * first * (shape.H // KV) * D, k + 4 * first * D
    if shape.qk_norm == HEAD_NORM:
        _norm_heads(shape, own_q, q_norm, q_shift, heads, spare)
        _norm_heads(shape, own_k, k_norm, k_shift, own, spare)
    elif shape.qk_norm == ROW_NORM:  # here `first` to `last` are all heads
        _norm_in_place(shape, q, q_norm, q_shift, shape.H * D, spare)
        _norm_in_place(shape, k, k_norm, k_shift, KV * D, spare)
    after = shape.qk_norm == NORM_AFTER
    if cosine != 0:
        turn, one = 4 * position * shape.table_row, np.float32(1.0)
        cos, sin, period = cosine + turn, sine + turn, shape.table_row
        rotate_row(own_q, cos, sin, heads * D, period, one if after else shape.score_factor)
        rotate_row(own_k, cos, sin, own * D, period, one)
    elif not after:
        scale_row(own_q, heads * D, shape.score_factor)
    if after:
        _norm_heads(shape, own_q, q_norm, q_shift, heads, spare)
        _norm_heads(shape, own_k, k_norm, k_shift, own, spare)
        scale_row(own_q, heads * D, shape.qk_scale * shape.score_factor)
        scale_row(own_k, own * D, shape.qk_scale)
    keys = state + 4 * layer * layer_floats(KV, D, S)
    values = keys + 4 * KV * S * D
    for h in range(first, last):
        key = keys + 4 * (h * S * D + (position // LANES) * D * LANES + position % LANES)
        scatter_row(k + 4 * h * D, key, D, LANES)
        scatter_vectors(v + 4 * h * D, values + 4 * (h * wide * S + position * LANES), D, S * LANES)


@inner
def attend(shape, floats, zeros, room, q, q_row, mixed, layer, window, position, positions, state, S, head):
    """Attend with one key head and all its query heads, for `positions` consecutive rows of one sequence.

    `floats` is that of `matrices.Products`. The first row is at `position`; `q` and `mixed` are its
    addresses. A row sees `window` positions, its own included, or all up to its own where that is 0. `room`
    is the address of `group_floats` floats. Writes what is left of each row's last vector, too, so heads go
    in order.
    """
    D, wide = shape.D, -(-shape.D // LANES) * LANES
    each = shape.H // shape.KV
    rows = positions * each
    layer_keys = state + 4 * layer * layer_floats(shape.KV, D, S)
    keys = layer_keys + 4 * head * S * D
    values = layer_keys + 4 * (shape.KV * S * D + head * wide * S)
    sums = room + 4 * rows * S
    queries = sums + 4 * (-(-rows // LANES) * LANES)
    out = queries + 4 * rows * wide
    for row in range(rows):
        at = q + 4 * ((row // each) * q_row + (head * each + row % each) * D)
        copy_row(at, queries + 4 * row * wide, D)
    own = position + 1  # where the keys of the first row end; each further row has one more
    first = _first_seen(own, window)
    float_product(
        floats, queries, wide, keys, D * LANES, D, zeros, ZERO, room, S, rows,
        first // LANES, (position + positions - 1) // LANES + 1,
    )  # fmt: skip
    for row in range(rows):
        end = own + row // each
        begin = _first_seen(end, window)
        base = begin // LANES * LANES
        scores = room + 4 * (row * S + base)
        if shape.score_cap != 0:
            cap_row(scores, end - base, shape.score_cap)
        fill_row(scores, begin - base, NEGATIVE_INFINITY)
        exp_row(scores, scores, end - base, largest_in_row(scores, end - base), sums + 4 * row)
    _mix(floats, room, S, values, zeros, out, wide, window, own, positions, each)
    for row in range(rows):
        divide_row(out + 4 * row * wide, D, sums + 4 * row)
        to = mixed + 4 * ((row // each) * shape.mixed_row + (head * each + row % each) * D)
        copy_row(out + 4 * row * wide, to, D)


@inner
def _first_seen(end, window):
    return max(ZERO, end - window) if window > 0 else ZERO


@inner
def _mix(floats, scores, S, values, zeros, out, wide, window, own, positions, each):
    """Mix the values: one product for positions that all rows see, further ones for the other positions."""
    together = _first_seen(own + positions - 1, window)
    if together > own:  # a window shorter than the group: no position that all rows see
        for r in range(positions):
            begin = _first_seen(own + r, window)
            _pass(floats, scores, S, values, zeros, ZERO, out, wide, begin, own + r, r * each, each)
        return
    start, stride = zeros, ZERO
    if together > 0:  # first the positions that have left the window of the last row
        start, stride = out, np.int64(wide)
        for r in range(positions):
            _pass(
                floats,
                scores,
                S,
                values,
                zeros,
                ZERO,
                out,
                wide,
                _first_seen(own + r, window),
                together,
                r * each,
                each,
            )
    _pass(floats, scores, S, values, start, stride, out, wide, together, own, ZERO, positions * each)
    # The rows' own last keys, which rows before them must not see: the same chains continue.
    t = ZERO
    while t < positions - 1:
        for r in range(t + 1, min(t + TAIL, positions)):
            _pass(floats, scores, S, values, out, wide, out, wide, own + t, own + r, r * each, each)
        if t + TAIL < positions:
            rest = positions - t - TAIL
            _pass(
                floats,
                scores,
                S,
                values,
                out,
                wide,
                out,
                wide,
                own + t,
                own + t + TAIL,
                (t + TAIL) * each,
                rest * each,
            )
        t += TAIL


@inner
def _pass(floats, scores, S, values, start, start_row, out, wide, begin, end, first, rows):
    """Continue the chains of rows `first` to `first + rows - 1` over positions `begin` to `end` - 1."""
    at = scores + 4 * (first * S + begin)
    float_product(
        floats, at, S, values + VECTOR_BYTES * begin, S * LANES, end - begin,
        start + 4 * first * start_row, start_row, out + 4 * first * wide, wide, rows, ZERO, wide // LANES,
    )  # fmt: skip
