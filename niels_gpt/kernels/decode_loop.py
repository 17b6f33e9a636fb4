"""Run a few steps of a batch in one call without the GIL: forward, draw, feed the drawn tokens back.

Each sequence has a slot with its position, its sampling settings and its remaining tokens. A call returns the
drawn ids, their margins and the rows of logits they were drawn from. It ends early after the step in which
any sequence ended. Prompts are further rows of the first step; their sequences draw if their last token is
among these rows. A sequence that reads a draft draws from several rows, one after another, until a token
differs from the draft.

R rows of a step, N sequences that draw, V vocabulary.
"""

from __future__ import annotations

import numpy as np
from numba import types

from niels_gpt.kernels.barrier import wait
from niels_gpt.kernels.fp_env import plain_modes, set_modes
from niels_gpt.kernels.jit import ZERO, caller, inlined, inner
from niels_gpt.kernels.slots import UNDRAWN, UNIFORMS

_call_forward = caller(8)
_call_sample = caller(8, types.Tuple([types.int64, types.float64]))


@inner
def run(
    calls, shape, weights, work, rows, wanted, drawing, slots, scratch, multipliers, drawn, steps, part, parts
):
    """Run up to `steps` steps and return how many were run.

    `calls` are those of the architecture. `rows` are those of the first step, `drawing` (N,) the slots that
    draw in it, again for each further row of a draft. Later steps feed each drawing sequence its last token,
    so `steps` above 1 requires that the rows are exactly those. Part 0 draws, all parts compute.
    `multipliers` (V,) uint64 are those of the sums.
    """
    done, modes = ZERO, plain_modes()
    while done < steps:
        logits = drawn.logits[done]
        at = np.int64(logits.ctypes.data)
        _call_forward(calls.forward, shape, weights, work, rows, wanted, at, part, parts)
        if part == 0:
            ended = False
            for i in range(drawing.size):
                again = i > 0 and drawing[i] == drawing[i - 1]
                if again and drawn.ids[done, i - 1] != rows.ids[wanted[i]]:
                    drawn.ids[done, i] = UNDRAWN
                    continue
                drawn.sums[done, i] = _row_sum(logits[i], multipliers)
                ended |= _draw(calls, shape.V, logits[i], drawing[i], slots, scratch, drawn, done, i)
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


@inner
def read(calls, shape, weights, work, rows, wanted, logits, part, parts):
    """Run one forward pass without drawing; `logits` is the address of the wanted rows' logits."""
    modes = plain_modes()
    _call_forward(calls.forward, shape, weights, work, rows, wanted, logits, part, parts)
    set_modes(modes)
    return ZERO


@inner
def _row_sum(logits, multipliers):
    """Return the sum of the numbers' bits times the multipliers, modulo 2**64; exact in any order."""
    words, total = logits.view(np.uint32), np.uint64(0)
    for i in range(multipliers.size):
        total += np.uint64(words[i]) * multipliers[i]
    return total


@inlined
def _draw(calls, V, logits, slot, slots, scratch, drawn, step, i):
    """Draw for one sequence and advance it; return whether the call must end because of it."""
    uniform = 0.0
    if slots.settings.temperature[slot] > 0.0:
        uniform = slots.uniforms[slot, slots.used[slot]]
    token_id, margin = _call_sample(
        calls.sample, logits, V, slots.counts[slot], slots.banned[slot], slots.settings, slot, uniform,
        scratch,
    )  # fmt: skip
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
