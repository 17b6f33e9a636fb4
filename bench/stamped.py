"""A step of the kernels with a clock read after every kernel: `gpt.forward` again, for one thread.

Timed where they stand, kernels find the caches as a step leaves them. The order of the calls is that of
`niels_gpt.kernels.gpt`; `bench.step` checks that the bits are, too, before it believes a time. Reads the
clock through the C library, at some 20 ns a time: on Linux and macOS.
"""

# ruff: noqa: PLR0917 - compiled functions take plain numbers by position, as those of the kernels do
from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
from llvmlite import ir

from niels_gpt.kernels.attention import attend, remember
from niels_gpt.kernels.gpt import (
    DOWN,
    DOWN_BIAS,
    GATE,
    GATE_BIAS,
    NORM1,
    NORM2,
    NORM_EPS,
    PROJ,
    QKV,
    SHIFT1,
    SHIFT2,
    UP,
    UP_BIAS,
)
from niels_gpt.kernels.jit import compiled
from niels_gpt.kernels.linear import block_floats, linear
from niels_gpt.kernels.row_ops import add_row, copy_row, gelu_row, layer_norm_row, rms_norm_row, swiglu_row
from niels_gpt.kernels.sampler import Scratch, Settings, sample
from niels_gpt.kernels.simd_ir import ADDRESS, INT, INT32, LANES, Emitter, Value, kernel

PARTS = (
    "embedding", "norms", "qkv", "rotary, into the states", "attention: scores, softmax, values", "proj",
    "up (and gate)", "activation", "down", "head", "sampling",
)  # fmt: skip
EMBEDDING, NORMS, QKV_PART, REMEMBER, ATTEND, PROJ_PART, UP_PART, ACTIVATION, DOWN_PART, HEAD, SAMPLE = range(
    len(PARTS)
)
CLOCK = time.CLOCK_MONOTONIC


class Clock(NamedTuple):
    """Where the times go."""

    now: np.ndarray
    """(2,) int64: room for what the C library answers, seconds and nanoseconds."""
    spent: np.ndarray
    """(PARTS,) int64: nanoseconds by part, added to."""


class Draws(NamedTuple):
    """What the sampler needs, by row of the step."""

    uniforms: np.ndarray
    seen: np.ndarray
    banned: np.ndarray
    settings: Settings
    scratch: Scratch
    ids: np.ndarray
    """(rows,) int64: what was drawn."""


def _read_clock(e: Emitter, room: Value) -> Value:
    name, pointer = "clock_gettime", ir.PointerType(INT)
    known = e.b.module.globals.get(name)
    function = known or ir.Function(e.b.module, ir.FunctionType(INT32, [INT32, pointer]), name)
    at = e.b.inttoptr(room, pointer)
    e.b.call(function, [INT32(CLOCK), at])
    seconds, rest = e.b.load(at), e.b.load(e.b.gep(at, [INT(1)]))
    return e.b.add(e.b.mul(seconds, INT(1_000_000_000)), rest)


read_clock = kernel(_read_clock, [ADDRESS], ADDRESS)


@compiled
def stamped_steps(shape, weights, work, rows, draws, logits, clock, steps):
    """Take the same decode step `steps` times: one token of each row, drawn from its own logits."""
    room = np.int64(clock.now.ctypes.data)
    before = read_clock(room)
    for _ in range(steps):
        before = _layers(shape, weights, work, rows, clock, before)
        normed, count = work.normed[0], rows.ids.size
        _norm(shape, weights.final_scale, weights.final_shift, work.x, normed, count)
        before = _lap(clock, NORMS, before)
        _product(
            weights, normed, shape.row, weights.head, shape.C, shape.V,
            weights.zeros, 0, np.int64(logits.ctypes.data), shape.head_row, count,
        )  # fmt: skip
        before = _lap(clock, HEAD, before)
        for r in range(count):
            draws.ids[r] = sample(
                logits[r], shape.V, draws.seen[r], draws.banned[r], draws.settings, r, draws.uniforms[r],
                draws.scratch,
            )[0]  # fmt: skip
        before = _lap(clock, SAMPLE, before)


@compiled
def _layers(shape, weights, work, rows, clock, before):
    count, normed = rows.ids.size, work.normed[0]
    for r in range(count):
        copy_row(weights.embedding + 4 * rows.ids[r] * shape.row, work.x + 4 * r * shape.row, shape.C)
    before = _lap(clock, EMBEDDING, before)
    for layer in range(shape.L):
        w = weights.layers[layer]
        _norm(shape, w[NORM1], w[SHIFT1], work.x, normed, count)
        before = _lap(clock, NORMS, before)
        _product(
            weights, normed, shape.row, w[QKV], shape.C, 3 * shape.C,
            weights.zeros, 0, work.qkv, shape.qkv_row, count,
        )  # fmt: skip
        before = _lap(clock, QKV_PART, before)
        remember(
            shape, weights.cosine, weights.sine, work.qkv, layer, count,
            rows.positions, rows.states, rows.rooms, 0, shape.H,
        )  # fmt: skip
        before = _lap(clock, REMEMBER, before)
        for r in range(count):
            for head in range(shape.H):
                attend(
                    shape, weights.zeros, work.scores[0], work.qkv, work.mixed, layer, r, 1,
                    rows.positions, rows.states, rows.rooms, head,
                )  # fmt: skip
        before = _lap(clock, ATTEND, before)
        _product(
            weights, work.mixed, shape.row, w[PROJ], shape.C, shape.C,
            work.x, shape.row, work.x, shape.row, count,
        )  # fmt: skip
        before = _lap(clock, PROJ_PART, before)
        before = _mlp(shape, weights, w, work, count, clock, before)
    return before


@compiled
def _mlp(shape, weights, w, work, count, clock, before):
    normed = work.normed[0]
    _norm(shape, w[NORM2], w[SHIFT2], work.x, normed, count)
    before = _lap(clock, NORMS, before)
    _product(
        weights, normed, shape.row, w[UP], shape.C, shape.F, w[UP_BIAS], 0, work.up, shape.mlp_row, count
    )
    if shape.gated:
        _product(
            weights, normed, shape.row, w[GATE], shape.C, shape.F,
            w[GATE_BIAS], 0, work.gate, shape.mlp_row, count,
        )  # fmt: skip
    before = _lap(clock, UP_PART, before)
    width = -(-shape.F // LANES) * LANES
    for r in range(count):
        at = 4 * r * shape.mlp_row
        if shape.gated:
            swiglu_row(work.gate + at, work.up + at, width)
        else:
            gelu_row(work.up + at, width)
    before = _lap(clock, ACTIVATION, before)
    for r in range(count):
        add_row(w[DOWN_BIAS], work.x + 4 * r * shape.row, shape.C)
    _product(
        weights, work.up, shape.mlp_row, w[DOWN], shape.F, shape.C,
        work.x, shape.row, work.x, shape.row, count,
    )  # fmt: skip
    return _lap(clock, DOWN_PART, before)


@compiled
def _product(weights, x, x_row, w, depth, width, start, start_row, y, y_row, rows):
    block = block_floats(weights.kind, depth)
    last = -(-width // LANES)
    linear(weights.kind, x, x_row, w, block, depth, start, start_row, y, y_row, rows, 0, last)


@compiled
def _norm(shape, scale, shift, x, y, rows):
    size = np.float32(shape.C)
    for r in range(rows):
        at = 4 * r * shape.row
        if shape.rms:
            rms_norm_row(x + at, scale, y + at, shape.C, size, NORM_EPS)
        else:
            layer_norm_row(x + at, scale, shift, y + at, shape.C, size, NORM_EPS)


@compiled
def _lap(clock, part, before):
    now = read_clock(np.int64(clock.now.ctypes.data))
    clock.spent[part] += now - before
    return now
