"""Compute one step of a decoder-only transformer for any mixture of rows: new tokens and chunks of prompts.

A row is one token of one sequence: its id, its position, the address and capacity of its sequence's state.
A row's arithmetic does not depend on any other row, so the rest of the step cannot change its bits. One
function serves every family (see `niels_gpt.model.form`): they differ in numbers of `Shape` and in addresses
of `PLACES`, where 0 stands for an absent part.

Several threads may run the same step: part p of P computes its own columns of every product, and its own
heads or rows of attention. No sum is ever split, so P cannot change a bit either. Each part computes the
cheap operations (norms) for itself if there are few rows; many rows are divided between the parts.

L layers, H heads of queries, KV heads of keys and values, D head width, C width, F MLP width, V vocabulary, S
positions of a state.
"""

from __future__ import annotations

import numpy as np

from niels_gpt.kernels.attention import attend, remember
from niels_gpt.kernels.barrier import wait
from niels_gpt.kernels.gpt_layout import (
    ATTN_IN,
    ATTN_IN_SHIFT,
    ATTN_OUT,
    ATTN_OUT_SHIFT,
    COSINE,
    DOWN,
    DOWN_BIAS,
    DOWN_CODE,
    FEW_ROWS,
    GATE,
    GATE_BIAS,
    GATE_CODE,
    GELU,
    GELU_TANH,
    IN_TURN,
    K_BIAS,
    K_CODE,
    K_NORM,
    K_SHIFT,
    MLP_IN,
    MLP_IN_SHIFT,
    MLP_OUT,
    MLP_OUT_SHIFT,
    ONE_NORM,
    PROJ,
    PROJ_BIAS,
    PROJ_CODE,
    Q_BIAS,
    Q_CODE,
    Q_NORM,
    Q_SHIFT,
    RELU,
    ROW_NORM,
    SILU,
    SINE,
    UP,
    UP_BIAS,
    UP_CODE,
    V_BIAS,
    V_CODE,
    WINDOW,
    K,
    Q,
    V,
)  # fmt: skip
from niels_gpt.kernels.jit import ONE, ZERO, caller, compiled, inner
from niels_gpt.kernels.matrices import Factor, embedding_row, product, to_integers
from niels_gpt.kernels.processor import LANES, VECTOR_BYTES
from niels_gpt.kernels.row_ops import (
    add_row,
    add_scaled_row,
    cap_row,
    copy_row,
    gelu_row,
    gelu_tanh_row,
    layer_norm_row,
    multiply_row,
    positive_square_row,
    relu_row,
    rms_norm_row,
    scale_row,
    silu_row,
    swiglu_row,
)

_call_attention = caller(8)


@compiled
def forward(shape, weights, work, rows, wanted, logits, part, parts):
    """Run all rows through the model; logits of row wanted[i] go to row i of `logits`, `head_row` floats."""
    count = rows.ids.size
    embed(shape, weights, work, rows, part, parts)
    for layer in range(shape.L):
        w = weights.layers[layer]
        prepare(shape, work, w[ATTN_IN], w[ATTN_IN_SHIFT], work.x, shape.C, shape.row, count, part, parts)
        project(shape, weights, w, work, count, part, parts)
        _call_attention(weights.attention, shape, weights, w, work, rows, layer, part, parts)
        wait(work.barrier, parts)
        if shape.parallel == ONE_NORM:  # before the records of the norms are overwritten
            mlp_up(shape, weights, w, work, count, part, parts)
            wait(work.barrier, parts)
        attention_out(shape, weights, w, work, count, part, parts)
        if shape.parallel != ONE_NORM:
            prepare(
                shape,
                work,
                w[MLP_IN],
                w[MLP_IN_SHIFT],
                work.x,
                shape.C,
                shape.row,
                count,
                part,
                parts,
            )
            mlp_up(shape, weights, w, work, count, part, parts)
            wait(work.barrier, parts)
        mlp_down(shape, weights, w, work, count, part, parts)
    head(shape, weights, work, wanted, logits, part, parts)
    wait(work.barrier, parts)


@inner
def share(blocks, part, parts):
    """Return the range of `blocks` that belongs to this part."""
    return blocks * part // parts, blocks * (part + 1) // parts


@inner
def alone(count, parts):
    """Return whether each part computes the cheap operations of all rows for itself."""
    return parts == 1 or count < FEW_ROWS


@inner
def norm(rms, eps, scale, shift, x, y, count):
    """Norm one row of `count` floats; copy it if there is no norm."""
    if scale == 0:
        copy_row(x, y, count)
    elif rms:
        rms_norm_row(x, scale, y, count, np.float32(count), eps)
    else:
        layer_norm_row(x, scale, shift, y, count, np.float32(count), eps)


@inner
def embed(shape, weights, work, rows, part, parts):
    """Look up rows of the embedding; add learned positions and apply a norm if the model has them."""
    for r in range(part, rows.ids.size, parts):
        x = work.x + 4 * r * shape.row
        embedding_row(weights.embedding_code, weights.embedding, shape.C, shape.row, rows.ids[r], x)
        if shape.embed_scale != np.float32(1):
            scale_row(x, shape.C, shape.embed_scale)
        if weights.positions != 0:
            add_row(weights.positions + 4 * rows.positions[r] * shape.row, x, shape.C)
        if weights.embed_norm != 0:
            norm(
                shape.rms,
                shape.norm_eps,
                weights.embed_norm,
                weights.embed_shift,
                x,
                work.spare[part],
                shape.C,
            )
            copy_row(work.spare[part], x, shape.C)
    wait(work.barrier, parts)


@inner
def prepare(shape, work, scale, shift, x, width, x_row, count, part, parts):
    """Norm rows, and quantise them if products read integers: each part for itself, or divided."""
    own = alone(count, parts)
    which, first, step = (part, ZERO, ONE) if own else (ZERO, np.int64(part), np.int64(parts))
    normed, records = work.normed[which], work.records[which]
    for r in range(first, count, step):
        norm(shape.rms, shape.norm_eps, scale, shift, x + 4 * r * x_row, normed + 4 * r * shape.row, width)
    to_integers(normed, shape.row, records, shape.record_row, width, first, count, step)
    if not own:
        wait(work.barrier, parts)


@inner
def integers(shape, work, x, x_row, depth, count, part, parts):
    """Quantise rows if products read integers: each part for itself, or divided."""
    if shape.record_row != 0:
        own = alone(count, parts)
        which, first, step = (part, ZERO, ONE) if own else (ZERO, np.int64(part), np.int64(parts))
        to_integers(x, x_row, work.records[which], shape.record_row, depth, first, count, step)
        if not own:
            wait(work.barrier, parts)


@inner
def factor(shape, work, rows, row, which):
    """Return rows in the form that products read; the records are those of part `which`."""
    return Factor(rows, row, work.records[which], shape.record_row)


@inner
def bias_or(bias, zeros):
    """Return the address of the start values of a product."""
    return bias if bias != 0 else zeros


@inner
def by_heads(shape, parts):
    """Return whether each part computes its own heads from norms to mixed values."""
    return shape.KV % parts == 0 and shape.qk_norm != ROW_NORM


@inner
def project(shape, weights, w, work, count, part, parts):
    """Compute queries, keys and values of all rows: the columns of this part's heads, or an equal share."""
    which = part if alone(count, parts) else 0
    x, D = factor(shape, work, work.normed[which], shape.row, which), shape.D
    first, last = share(shape.KV, part, parts)
    for matrix in range(3):
        heads = shape.H if matrix == 0 else shape.KV
        each = heads // shape.KV
        if parts > 1 and by_heads(shape, parts):  # heads are whole blocks here, see `may_split`
            begin, end = first * each * D // LANES, last * each * D // LANES
        else:
            begin, end = share(-(-heads * D // LANES), part, parts)
        address, code, bias = w[Q], w[Q_CODE], w[Q_BIAS]
        y, y_row = work.q, shape.q_row
        if matrix == 1:
            address, code, bias, y, y_row = w[K], w[K_CODE], w[K_BIAS], work.k, shape.kv_row
        elif matrix == 2:
            address, code, bias, y, y_row = w[V], w[V_CODE], w[V_BIAS], work.v, shape.kv_row
        product(
            weights.products, code, x, address, shape.C, bias_or(bias, weights.zeros), ZERO, y, y_row, count,
            begin, end,
        )  # fmt: skip


@inner
def attention(shape, weights, w, work, rows, layer, part, parts):
    """Store keys and values in the states, and attend to them."""
    count = rows.ids.size
    whole = parts == 1 or by_heads(shape, parts)
    if not whole:
        wait(work.barrier, parts)
    heads = whole or (count == 1 and shape.qk_norm != ROW_NORM)
    first, last = share(shape.KV, part, parts) if heads else (ZERO, np.int64(shape.KV))
    for r in range(ZERO if heads else np.int64(part), count, ONE if heads else np.int64(parts)):
        remember(
            shape, w[COSINE], w[SINE], w[Q_NORM], w[Q_SHIFT], w[K_NORM], w[K_SHIFT],
            work.q + 4 * r * shape.q_row, work.k + 4 * r * shape.kv_row, work.v + 4 * r * shape.kv_row, layer,
            rows.positions[r], rows.states[r], rows.rooms[r], first, last, work.spare[part],
        )  # fmt: skip
    if not heads:
        wait(work.barrier, parts)
    group, unit = ZERO, ZERO
    while group < count:
        n = ONE
        while n < work.positions and group + n < count and rows.states[group + n] == rows.states[group]:
            n += 1
        for kv in range(first, last):
            if heads or unit % parts == part:
                attend(
                    shape, weights.products.floats, weights.zeros, work.scores[part],
                    work.q + 4 * group * shape.q_row, shape.q_row, work.mixed + 4 * group * shape.mixed_row,
                    layer, w[WINDOW], rows.positions[group], n, rows.states[group], rows.rooms[group], kv,
                )  # fmt: skip
            unit += 1
        group += n


@inner
def leave(shape, weights, work, code, x, x_row, w, depth, bias, scale, shift, start, count, part, parts):
    """Multiply rows by a matrix and add the result to the residual stream, normed and scaled if configured.

    `start` is the address of the start values (rows) of the products, 0 for none.
    """
    which = part if alone(count, parts) else 0
    first, last = share(-(-shape.C // LANES), part, parts)
    own, width = VECTOR_BYTES * first, min(last * LANES, shape.C) - first * LANES
    y = work.x if shape.from_residual else work.added
    if shape.from_residual or start != 0:
        for r in range(count):
            if bias != 0:
                add_row(bias + own, y + 4 * r * shape.row + own, width)
        begin, begin_row = y, np.int64(shape.row)
    else:
        begin, begin_row = bias_or(bias, weights.zeros), ZERO
    product(
        weights.products, code, factor(shape, work, x, x_row, which), w, depth, begin, begin_row, y,
        shape.row, count, first, last,
    )  # fmt: skip
    if not shape.from_residual:
        if scale != 0:
            wait(work.barrier, parts)
        for r in range(count):
            row, x_at = work.added + 4 * r * shape.row, work.x + 4 * r * shape.row
            if scale != 0:
                norm(shape.rms, shape.norm_eps, scale, shift, row, work.spare[part], shape.C)
                row = work.spare[part]
            add_scaled_row(row + own, x_at + own, width, shape.residual_scale)


@inner
def attention_out(shape, weights, w, work, count, part, parts):
    """Project mixed values into the residual stream, or keep them for an MLP that runs in parallel."""
    depth = shape.H * shape.D
    integers(shape, work, work.mixed, shape.mixed_row, depth, count, part, parts)
    if shape.parallel != IN_TURN:
        which = part if alone(count, parts) else 0
        first, last = share(-(-shape.C // LANES), part, parts)
        product(
            weights.products, w[PROJ_CODE], factor(shape, work, work.mixed, shape.mixed_row, which), w[PROJ],
            depth, bias_or(w[PROJ_BIAS], weights.zeros), ZERO, work.added, shape.row, count, first, last,
        )  # fmt: skip
    else:
        leave(
            shape, weights, work, w[PROJ_CODE], work.mixed, shape.mixed_row, w[PROJ], depth, w[PROJ_BIAS],
            w[ATTN_OUT], w[ATTN_OUT_SHIFT], ZERO, count, part, parts,
        )  # fmt: skip
    wait(work.barrier, parts)


@inner
def mlp_up(shape, weights, w, work, count, part, parts):
    """Compute one part's columns of the MLP's inner rows, activation included."""
    which = part if alone(count, parts) else 0
    x = factor(shape, work, work.normed[which], shape.row, which)
    first, last = share(-(-shape.F // LANES), part, parts)
    product(
        weights.products, w[UP_CODE], x, w[UP], shape.C, bias_or(w[UP_BIAS], weights.zeros), ZERO,
        work.up, shape.mlp_row, count, first, last,
    )  # fmt: skip
    if shape.gated:
        product(
            weights.products, w[GATE_CODE], x, w[GATE], shape.C, bias_or(w[GATE_BIAS], weights.zeros), ZERO,
            work.gate, shape.mlp_row, count, first, last,
        )  # fmt: skip
    width = (last - first) * LANES
    for r in range(count):
        at = 4 * r * shape.mlp_row + VECTOR_BYTES * first
        if shape.gated and shape.mlp == SILU:
            swiglu_row(work.gate + at, work.up + at, width)
        elif shape.gated:
            activate(shape.mlp, work.gate + at, width)
            multiply_row(work.gate + at, work.up + at, width)
        else:
            activate(shape.mlp, work.up + at, width)


@inner
def activate(activation, x, count):
    """Apply the activation to one row in place."""
    if activation == GELU:
        gelu_row(x, count)
    elif activation == GELU_TANH:
        gelu_tanh_row(x, count)
    elif activation == SILU:
        silu_row(x, count)
    elif activation == RELU:
        relu_row(x, count)
    else:
        positive_square_row(x, count)


@inner
def mlp_down(shape, weights, w, work, count, part, parts):
    """Project the MLP's inner rows into the residual stream."""
    integers(shape, work, work.up, shape.mlp_row, shape.F, count, part, parts)
    start = ONE if shape.parallel != IN_TURN else ZERO
    leave(
        shape, weights, work, w[DOWN_CODE], work.up, shape.mlp_row, w[DOWN], shape.F, w[DOWN_BIAS],
        w[MLP_OUT], w[MLP_OUT_SHIFT], start, count, part, parts,
    )  # fmt: skip
    wait(work.barrier, parts)


@inner
def head(shape, weights, work, wanted, logits, part, parts):
    """Compute one part's columns of the logits of the wanted rows."""
    count = wanted.size
    own = alone(count, parts)
    which, first, step = (part, ZERO, ONE) if own else (ZERO, np.int64(part), np.int64(parts))
    normed, records = work.normed[which], work.records[which]
    for i in range(first, count, step):
        x = work.x + 4 * wanted[i] * shape.row
        norm(
            shape.rms,
            shape.norm_eps,
            weights.final_scale,
            weights.final_shift,
            x,
            normed + 4 * i * shape.row,
            shape.C,
        )
    to_integers(normed, shape.row, records, shape.record_row, shape.C, first, count, step)
    if not own:
        wait(work.barrier, parts)
    begin, end = share(-(-shape.V // LANES), part, parts)
    product(
        weights.products, weights.head_code, factor(shape, work, normed, shape.row, which), weights.head,
        shape.C, bias_or(weights.head_bias, weights.zeros), ZERO, logits, shape.head_row, count, begin, end,
    )  # fmt: skip
    width = (end - begin) * LANES
    for i in range(count):
        at = logits + 4 * i * shape.head_row + VECTOR_BYTES * begin
        if shape.head_scale != np.float32(1):
            scale_row(at, width, shape.head_scale)
        if shape.head_cap != 0:
            cap_row(at, width, shape.head_cap)
