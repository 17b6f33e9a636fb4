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

from niels_gpt.kernels.gpt import attention, attention_out, embed, head, mlp_down, mlp_up, prepare, project
from niels_gpt.kernels.gpt_layout import ATTN_IN, ATTN_IN_SHIFT, MLP_IN, MLP_IN_SHIFT
from niels_gpt.kernels.jit import ONE, ZERO, compiled
from niels_gpt.kernels.sampler import sample
from niels_gpt.kernels.simd_ir import ADDRESS, INT, INT32, Emitter, Value, kernel
from niels_gpt.kernels.slots import Scratch, Settings

PARTS = (
    "embedding", "norms", "qkv", "rotary and attention", "proj", "up (and gate), activation", "down", "head",
    "sampling",
)  # fmt: skip
EMBEDDING, NORMS, QKV_PART, ATTEND, PROJ_PART, UP_PART, DOWN_PART, HEAD, SAMPLE = range(len(PARTS))
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
def stamped_steps(shape, weights, work, rows, wanted, draws, logits, clock, steps):
    """Take the same decode step `steps` times: one token of each row, drawn from its own logits."""
    room, count = np.int64(clock.now.ctypes.data), rows.ids.size
    before = read_clock(room)
    for _ in range(steps):
        before = _layers(shape, weights, work, rows, clock, before)
        head(shape, weights, work, wanted, np.int64(logits.ctypes.data), ZERO, ONE)
        before = _lap(clock, HEAD, before)
        for r in range(count):
            draws.ids[r] = sample(
                logits[r], shape.V, draws.seen[r], draws.banned[r], draws.settings, r, draws.uniforms[r],
                draws.scratch,
            )[0]  # fmt: skip
        before = _lap(clock, SAMPLE, before)


@compiled
def _layers(shape, weights, work, rows, clock, before):
    count, C, row = rows.ids.size, shape.C, shape.row
    embed(shape, weights, work, rows, ZERO, ONE)
    before = _lap(clock, EMBEDDING, before)
    for layer in range(shape.L):
        w = weights.layers[layer]
        prepare(shape, work, w[ATTN_IN], w[ATTN_IN_SHIFT], work.x, C, row, count, ZERO, ONE)
        before = _lap(clock, NORMS, before)
        project(shape, weights, w, work, count, ZERO, ONE)
        before = _lap(clock, QKV_PART, before)
        attention(shape, weights, w, work, rows, layer, ZERO, ONE)
        before = _lap(clock, ATTEND, before)
        attention_out(shape, weights, w, work, count, ZERO, ONE)
        before = _lap(clock, PROJ_PART, before)
        prepare(shape, work, w[MLP_IN], w[MLP_IN_SHIFT], work.x, C, row, count, ZERO, ONE)
        before = _lap(clock, NORMS, before)
        mlp_up(shape, weights, w, work, count, ZERO, ONE)
        before = _lap(clock, UP_PART, before)
        mlp_down(shape, weights, w, work, count, ZERO, ONE)
        before = _lap(clock, DOWN_PART, before)
    return before


@compiled
def _lap(clock, part, before):
    now = read_clock(np.int64(clock.now.ctypes.data))
    clock.spent[part] += now - before
    return now
