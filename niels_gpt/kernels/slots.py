"""The data of a batch: a slot of numbers for each sequence, and what a call of the kernels draws.

V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from niels_gpt.sampling.settings import Sampling


MOST_BIASED = 300
"""Ids of a slot that may have a bias; `niels_gpt.sampling.settings` checks it."""
NON_FINITE, NOTHING_LEFT, OVERFLOW = -1, -2, -3
"""Error codes that `sample` returns instead of an id.

The logits are not finite; every id is ruled out; a penalty overflows float32.
"""
UNDRAWN = -4
"""The code of a row that was not drawn from, because an earlier row of its draft was refuted."""
WIDEST = 2**31 - 1  # a top_k that no vocabulary exceeds


class Settings(NamedTuple):
    """`niels_gpt.sampling.Sampling` by slot.

    A top_k, top_p, min_p or typical_p of 0 keeps all ids. A repetition penalty of 1 has no effect, nor do the
    other two at 0.
    """

    temperature: np.ndarray  # float32
    top_k: np.ndarray  # int64
    top_p: np.ndarray  # float64
    penalty: np.ndarray  # float32
    min_p: np.ndarray  # float64
    typical_p: np.ndarray  # float64
    frequency: np.ndarray  # float32
    presence: np.ndarray  # float32
    biases: np.ndarray  # int64: how many ids have a bias
    bias_ids: np.ndarray  # (slots, 300) int64
    bias: np.ndarray  # (slots, 300) float32


def new_settings(slots: int) -> Settings:
    """Return the settings of `slots` slots, all greedy until `set_slot` changes them."""
    narrow, wide = np.float32, np.float64
    kinds = (narrow, np.int64, wide, narrow, wide, wide, narrow, narrow)
    return Settings(
        *(np.zeros(slots, kind) for kind in kinds),
        biases=np.zeros(slots, np.int64),
        bias_ids=np.zeros((slots, MOST_BIASED), np.int64),
        bias=np.zeros((slots, MOST_BIASED), narrow),
    )


def set_slot(settings: Settings, slot: int, sampling: Sampling) -> None:
    """Set the sampling settings of one slot."""
    settings.temperature[slot] = sampling.temperature
    settings.top_k[slot] = min(sampling.top_k or 0, WIDEST)
    settings.top_p[slot] = sampling.top_p or 0.0
    settings.penalty[slot] = sampling.repetition_penalty or 1.0
    settings.min_p[slot] = sampling.min_p or 0.0
    settings.typical_p[slot] = sampling.typical_p or 0.0
    settings.frequency[slot] = sampling.frequency_penalty or 0.0
    settings.presence[slot] = sampling.presence_penalty or 0.0
    settings.biases[slot] = len(sampling.logit_bias)
    for i, (token_id, bias) in enumerate(sampling.logit_bias):
        settings.bias_ids[slot, i], settings.bias[slot, i] = token_id, bias


class Scratch(NamedTuple):
    """Scratch space for one draw."""

    scaled: np.ndarray
    """(V in whole vectors,) float32: all logits after penalty and bans."""
    weights: np.ndarray
    """(V in whole vectors,) float32: the candidates' weights."""
    ids: np.ndarray
    """(V,) int64: the candidates' ids."""
    order: np.ndarray
    """(V,) int64: indices of candidates."""
    nearness: np.ndarray
    """(V,) float64: minus the distance of each candidate's surprise from the entropy."""
    total: np.ndarray
    """(1,) float32: the sum of their weights, which the draw does not use: it sums in float64."""


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


def new_scratch(V: int, width: int) -> Scratch:
    """Allocate scratch space for draws over V ids; `width` is V in whole vectors."""
    return Scratch(
        scaled=np.zeros(width, np.float32),
        weights=np.zeros(width, np.float32),
        ids=np.zeros(V, np.int64),
        order=np.zeros(V, np.int64),
        nearness=np.zeros(V),
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
