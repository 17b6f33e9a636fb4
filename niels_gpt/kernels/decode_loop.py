"""Run a few steps of a batch in one call without the GIL: forward, draw, feed the drawn tokens back.

Each sequence has a slot with its position, its sampling settings and its remaining tokens. A call returns the
drawn ids, their margins and the rows of logits they were drawn from. It ends early after the step in which
any sequence ended. Prompts are further rows of the first step; their sequences draw if their last token is
among these rows. A sequence that reads a draft draws from several rows, one after another, until a token
differs from the draft.

R rows of a step, N sequences that draw, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import types

from niels_gpt.kernels import bdh, bdh_packing, gpt, gpt_layout, gpt_packing
from niels_gpt.kernels.barrier import wait
from niels_gpt.kernels.fp_env import plain_modes, set_modes
from niels_gpt.kernels.jit import ZERO, address_of, caller, compiled, inlined, inner
from niels_gpt.kernels.sampler import UNDRAWN, Scratch, Settings, new_settings, sample
from niels_gpt.kernels.simd_ir import LANES

FORWARDS: dict[type, Any] = {gpt_layout.Shape: gpt.forward, bdh.BDHShape: bdh.forward}
"""The forward pass of each architecture, by the type of the model's shape."""
EXAMPLES: dict[type, Callable[[], tuple[Any, ...]]] = {
    gpt_layout.Shape: gpt_packing.example_step,
    bdh.BDHShape: bdh_packing.example_step,
}
"""Arguments of a step, up to its rows."""


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
    sums: np.ndarray  # (steps, N) uint64: of the rows of logits, as in `niels_gpt.decoding.sequence`


class Calls(NamedTuple):
    """Addresses of what a step calls: the forward pass of an architecture and the sampler."""

    forward: int
    sample: int


def calls_of(shape: type) -> Calls:
    """Compile what steps of an architecture call, given by the type of its shape; or load it."""
    return Calls(forward_address(shape), sampler_address())


@cache
def forward_address(shape: type) -> int:
    """Return the address of an architecture's compiled forward pass."""
    number, numbers = 0, np.zeros(1, np.int64)
    return address_of(FORWARDS[shape], (*EXAMPLES[shape](), numbers, number, number, number))


@cache
def sampler_address() -> int:
    """Return the address of the compiled sampler."""
    slots, logits = new_slots(1, 2), np.zeros(LANES, np.float32)
    return address_of(
        sample,
        (logits, 2, slots.counts[0], slots.banned[0], slots.settings, 0, 0.5, new_scratch(2, LANES)),
    )


_call_forward = caller(8)
_call_sample = caller(8, types.Tuple([types.int64, types.float64]))


@compiled
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


def new_scratch(V: int, width: int) -> Scratch:
    """Allocate scratch space for draws over V ids; `width` is V in whole vectors."""
    return Scratch(
        scaled=np.zeros(width, np.float32),
        weights=np.zeros(width, np.float32),
        ids=np.zeros(V, np.int64),
        order=np.zeros(V, np.int64),
        total=np.zeros(1, np.float32),
    )


def new_slots(count: int, V: int) -> Slots:
    """Make `count` empty slots."""

    def numbers() -> np.ndarray:
        return np.zeros(count, np.int64)

    def flags() -> np.ndarray:
        return np.zeros((count, V), np.bool_)

    return Slots(
        numbers(), numbers(), numbers(), numbers(), numbers(), new_settings(count),
        np.zeros((count, V), np.int32), flags(), flags(), np.zeros((count, UNIFORMS)), numbers(),
    )  # fmt: skip


def doubled(slots: Slots, V: int) -> Slots:
    """Return twice as many slots; the first half are copies of these."""
    count = len(slots.position)
    larger = new_slots(2 * count, V)
    for old, new in zip(_arrays(slots), _arrays(larger), strict=True):
        new[:count] = old
    return larger


def new_drawn(steps: int, sequences: int, row: int) -> Drawn:
    """Allocate the draws of `steps` steps; `row` is V in whole vectors."""
    return Drawn(
        np.zeros((steps, sequences), np.int64),
        np.zeros((steps, sequences)),
        np.zeros((steps, sequences, row), np.float32),
        np.zeros((steps, sequences), np.uint64),
    )


def _arrays(slots: Slots) -> list[np.ndarray]:
    return [*(part for part in slots if isinstance(part, np.ndarray)), *slots.settings]
