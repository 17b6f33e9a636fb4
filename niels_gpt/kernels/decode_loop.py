"""Run a few steps of a batch in one call without the GIL: forward, draw, feed the drawn tokens back.

Each sequence has a slot with its position, its sampling settings and its remaining tokens. A call returns the
drawn ids, their margins and the rows of logits they were drawn from. It ends early after the step in which
any sequence ended. Prompts are further rows of the first step; their sequences draw if their last token is
among these rows.

R rows of a step, N sequences that draw, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba.extending import overload

from niels_gpt.kernels import bdh, gpt
from niels_gpt.kernels.barrier import wait
from niels_gpt.kernels.fp_env import plain_modes, set_modes
from niels_gpt.kernels.jit import ZERO, compiled, inlined
from niels_gpt.kernels.sampler import Scratch, Settings, new_settings, sample

FORWARDS = {gpt.Shape: gpt.forward, bdh.BDHShape: bdh.forward}
"""The forward pass of each architecture, by the type of the model's shape."""


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


def forward(shape, weights, work, rows, wanted, logits, part, parts):
    """Run all rows of a step through a model; see `gpt.forward` and `bdh.forward`.

    Numba resolves the call when it compiles `run` for an architecture. So the dispatch costs nothing in a
    step, and architectures that are not used are not compiled.
    """


@overload(forward)
def _chosen(shape, weights, work, rows, wanted, logits, part, parts):  # noqa: ARG001 - Numba compares the names
    chosen = FORWARDS[shape.instance_class]

    def call(shape, weights, work, rows, wanted, logits, part, parts):
        return chosen(shape, weights, work, rows, wanted, logits, part, parts)

    return call


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


def undo_draws(slots: Slots, slot: int, drawn: Sequence[int]) -> None:
    """Undo the last draws of a slot, made from rows of a draft that turned out to be wrong."""
    undone = [token_id for token_id in drawn if token_id >= 0]
    if not undone:
        return
    if slots.settings.temperature[slot] > 0:
        slots.used[slot] -= len(undone)
    slots.remaining[slot] += len(undone)
    np.subtract.at(slots.counts[slot], undone, 1)


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
