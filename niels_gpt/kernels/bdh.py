"""Compute one step of a BDH for any mixture of rows: new tokens and chunks of prompts.

Each row has its own position. The latents of all rows are products over all weights, on the same tiles as
everything else. Then each row, in the order of its sequence's positions, reads its heads' memories and
updates them. The memory of layer l and head h is the sum over earlier tokens of rotated latents times the
layer's input, (N, C). Reading it is one chain over the latents that are not zero (`active`). So a token's
result is the same in a chunk and alone, and its cost is the same after ten tokens and after a million. The
token at position 0 clears the memories of its sequence.

Several threads may run the same step: part p of P computes its own heads, then its own columns, then its own
rows; no sum is split. See `niels_gpt.model.bdh` for the formulas.

L times the layer, H heads, N latents of a head in whole vectors, C width, V vocabulary.
"""

from __future__ import annotations

import numpy as np

from niels_gpt.kernels.barrier import wait
from niels_gpt.kernels.jit import compiled, inner
from niels_gpt.kernels.linear import FLOAT32, linear
from niels_gpt.kernels.processor import LANES
from niels_gpt.kernels.rope_angles import phase_tables
from niels_gpt.kernels.row_ops import (
    add_row,
    clear_row,
    copy_row,
    gate_row,
    layer_norm_row,
    relu_row,
    rotate_row,
)
from niels_gpt.kernels.sparse import find_active, gather, recall

NORM_EPS = np.float32(1e-5)


@compiled
def forward(shape, weights, work, rows, wanted, logits, part, parts):
    """Run all rows through the model; logits of row wanted[i] go to row i of `logits`, `head_row` floats."""
    count = rows.ids.size
    for r in range(part, count, parts):
        at = 4 * r * shape.row
        _norm(shape, weights, weights.embedding + 4 * rows.ids[r] * shape.row, work.x + at)
        phase_tables(weights.frequencies, rows.positions[r], work.cosine[r], work.sine[r])
    wait(work.barrier, parts)
    first, last = shape.H * part // parts, shape.H * (part + 1) // parts
    column_blocks = shape.row // LANES
    left, right = column_blocks * part // parts, column_blocks * (part + 1) // parts
    for layer in range(shape.L):
        _heads(shape, weights, work, rows, layer, first, last, part)
        wait(work.barrier, parts)
        _decode(shape, weights, work, count, left, right, part)
        wait(work.barrier, parts)
        for r in range(part, count, parts):
            x, out = work.x + 4 * r * shape.row, work.out + 4 * r * shape.row
            _norm(shape, weights, out, out)
            add_row(out, x, shape.C)
            _norm(shape, weights, x, x)
        wait(work.barrier, parts)
    for i in range(part, wanted.size, parts):
        copy_row(work.x + 4 * wanted[i] * shape.row, work.out + 4 * i * shape.row, shape.C)
    wait(work.barrier, parts)
    blocks = shape.head_row // LANES
    linear(
        FLOAT32, work.out, shape.row, weights.head, shape.C * LANES, shape.C, weights.zeros, 0,
        logits, shape.head_row, wanted.size, blocks * part // parts, blocks * (part + 1) // parts,
    )  # fmt: skip
    wait(work.barrier, parts)


@inner
def _norm(shape, weights, x, y):
    layer_norm_row(x, weights.ones, weights.zeros, y, shape.C, np.float32(shape.C), NORM_EPS)


@inner
def _heads(shape, weights, work, rows, layer, first, last, part):
    """Compute gated latents from the layer's input, for heads `first` to `last` - 1."""
    count, C, N, row = rows.ids.size, shape.C, shape.N, shape.row
    latent_row, mixed_row, blocks = shape.H * N, shape.H * row, N // LANES
    linear(
        FLOAT32, work.x, row, weights.encoder, C * LANES, C, weights.zeros, 0,
        work.latents, latent_row, count, first * blocks, last * blocks,
    )  # fmt: skip
    for head in range(first, last):
        for r in range(count):
            latents = work.latents + 4 * (r * latent_row + head * N)
            relu_row(latents, N)
            memory = rows.states[r] + 4 * (layer * shape.H + head) * N * row
            if rows.positions[r] == 0:
                clear_row(memory, N * row)
            mixed = work.mixed + 4 * (r * mixed_row + head * row)
            _remember(shape, work, latents, r, memory, mixed, part)
            _norm(shape, weights, mixed, mixed)
        linear(
            FLOAT32, work.mixed + 4 * head * row, mixed_row, weights.gates + 4 * head * N * C, C * LANES, C,
            weights.zeros, 0, work.gates + 4 * head * N, latent_row, count, 0, blocks,
        )  # fmt: skip
    for r in range(count):
        at = 4 * (r * latent_row + first * N)
        gate_row(work.latents + at, work.gates + at, (last - first) * N)


@inner
def _remember(shape, work, latents, r, memory, mixed, part):
    """Read the memory with the rotated latents of row r, then add the row to the memory."""
    N, indices = shape.N, np.int64(work.active[part].ctypes.data)
    turned = np.int64(work.turned[part].ctypes.data)
    copy_row(latents, turned, N)
    cosine, sine = np.int64(work.cosine[r].ctypes.data), np.int64(work.sine[r].ctypes.data)
    rotate_row(turned, cosine, sine, N, N, np.float32(1.0))
    active = find_active(turned, N, indices)
    recall(turned, indices, active, memory, shape.row, work.x + 4 * r * shape.row, mixed)


@inner
def _decode(shape, weights, work, count, left, right, part):
    """Decode the gated latents into columns of vectors `left` to `right` - 1."""
    indices, width = np.int64(work.active[part].ctypes.data), shape.H * shape.N
    for r in range(count):
        gates = work.gates + 4 * r * width
        active = find_active(gates, width, indices)
        out = work.out + 4 * r * shape.row
        gather(gates, indices, active, weights.decoder, shape.row, out, left, right)
