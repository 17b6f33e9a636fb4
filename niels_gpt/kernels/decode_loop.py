"""Run a few steps of a batch in one call without the GIL: forward, draw, feed the drawn tokens back.

Each sequence has a slot with its position, its sampling settings and its remaining tokens. A call returns the
drawn ids, their margins and the rows of logits they were drawn from. It ends early after the step in which
any sequence ended. Prompts are further rows of the first step; their sequences draw if their last token is
among these rows.

R rows of a step, N sequences that draw, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from niels_gpt.kernels.barrier import wait
from niels_gpt.kernels.forward import forward
from niels_gpt.kernels.fp_env import plain_modes, set_modes
from niels_gpt.kernels.jit import ZERO, compiled, inlined
from niels_gpt.kernels.sampler import Scratch, Settings, sample


class Slots(NamedTuple):
    """The data of every sequence, indexed by slot number."""

    last_id: np.ndarray  # int64: the token to feed next
    position: np.ndarray  # int64: its position
    state: np.ndarray  # int64: address of keys and values
    room: np.ndarray  # int64: positions that the state holds
    remaining: np.ndarray  # int64: tokens that it may still draw
    settings: Settings
    counts: np.ndarray  # (slots, V) int32: how often each id occurred in the prompt and the reply so far
    banned: np.ndarray  # (slots, V) bool: ids never drawn
    stops: np.ndarray  # (slots, V) bool: ids that end the reply
    uniforms: np.ndarray  # (slots, UNIFORMS) float64: draws of the reply's generator, used in order
    used: np.ndarray  # int64: how many of them are spent


UNIFORMS = 64
"""Doubles drawn ahead for each sequence; the generator returns the same ones in portions of any size."""


class Drawn(NamedTuple):
    """The results of a call, by step and by sequence."""

    ids: np.ndarray  # (steps, N) int64, or a negative code of `sampler`
    margins: np.ndarray  # (steps, N) float64
    logits: np.ndarray  # (steps, N, head_row) float32
    sums: np.ndarray  # (steps, N) uint64: of the rows of logits, as in `niels_gpt.decoding.logits_hash`


@compiled
def run(shape, weights, work, rows, wanted, drawing, slots, scratch, multipliers, drawn, steps, part, parts):
    """Run up to `steps` steps and return how many were run.

    `rows` are those of the first step, `drawing` (N,) the slots that draw in it. Later steps
    feed each drawing sequence its last token, so `steps` above 1 requires that the rows are exactly those.
    Part 0 draws, all parts compute. `multipliers` (V,) uint64 are those of the sums.
    """
    done, modes = ZERO, plain_modes()
    while done < steps:
        logits = drawn.logits[done]
        forward(shape, weights, work, rows, wanted, np.int64(logits.ctypes.data), part, parts)
        if part == 0:
            ended = False
            for i in range(drawing.size):
                drawn.sums[done, i] = _row_sum(logits[i], multipliers)
                ended |= _draw(shape.V, logits[i], drawing[i], slots, scratch, drawn, done, i)
            if not ended and done + 1 < steps:
                for i in range(drawing.size):
                    rows.ids[i] = slots.last_id[drawing[i]]
                    rows.positions[i] = slots.position[drawing[i]]
            work.stop[0] = ended
        wait(work.barrier, parts)
        done += 1
        if work.stop[0]:
            break
        wait(work.barrier, parts)
    set_modes(modes)
    return done


@compiled
def _row_sum(logits, multipliers):
    """Return the sum of the numbers' bits times the multipliers, modulo 2**64; exact in any order."""
    words, total = logits.view(np.uint32), np.uint64(0)
    for i in range(multipliers.size):
        total += np.uint64(words[i]) * multipliers[i]
    return total


@inlined
def _draw(V, logits, slot, slots, scratch, drawn, step, i):
    """Draw for one sequence and advance it; return whether the call must end because of it."""
    uniform = 0.0
    if slots.settings.temperature[slot] > 0.0:
        uniform = slots.uniforms[slot, slots.used[slot]]
    token_id, margin = sample(
        logits, V, slots.counts[slot], slots.banned[slot], slots.settings, slot, uniform, scratch
    )
    drawn.ids[step, i] = token_id
    drawn.margins[step, i] = margin
    if token_id < 0:
        return True
    if slots.settings.temperature[slot] > 0.0:
        slots.used[slot] += 1
    slots.last_id[slot] = token_id
    slots.position[slot] += 1
    slots.remaining[slot] -= 1
    slots.counts[slot, token_id] += 1
    return slots.stops[slot, token_id] or slots.remaining[slot] == 0 or slots.used[slot] == UNIFORMS


def new_scratch(V: int, width: int) -> Scratch:
    """Allocate scratch space for draws over V ids; `width` is V in whole vectors."""
    return Scratch(
        scaled=np.zeros(width, np.float32),
        weights=np.zeros(width, np.float32),
        ids=np.zeros(V, np.int64),
        order=np.zeros(V, np.int64),
        total=np.zeros(1, np.float32),
    )
