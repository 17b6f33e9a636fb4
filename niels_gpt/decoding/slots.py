"""Allocate and grow the arrays that the kernels use for sequences and draws, and undo draws.

V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from niels_gpt.kernels.decode_loop import UNIFORMS, Drawn, Slots
from niels_gpt.kernels.sampler import new_settings


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
