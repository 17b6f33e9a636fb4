"""From a row of logits to a token id, without the GIL: the kernels' twin of `niels_gpt.sampling.draw`.

In this order, each step in float32 unless said: repetition penalty (positive logits of seen ids divided,
others multiplied), frequency * count + presence subtracted, banned ids to -inf; temperature 0: the largest,
lowest id first. Else the shift by the largest, division by the temperature, the k largest (lowest ids first
among equals), exp; then in float64: ids whose weight is below min_p go (the largest weight is 1); of the rest
in the order of their distance |x - mean of x| from the expected logit, which is that of their surprise from
the entropy, and then of the rest by weight, the smallest set whose sum in that order reaches p times the sum
of all in id order (lowest ids first among equals); and the first id at which the running sum in id order
exceeds uniform * total.

`margin` says how close the decision was: for a draw, the distance of uniform * total to the nearer end of the
chosen id's interval, over the total; for temperature 0, the lead of the largest over the second, in logits.

V vocabulary, k candidates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from niels_gpt.kernels.compiled import compiled
from niels_gpt.kernels.rows import exp_row, largest_in_row, spoiled_row
from niels_gpt.kernels.vector import LANES

if TYPE_CHECKING:
    from niels_gpt.sampling.settings import Sampling

SPOILED, NOTHING_LEFT = -1, -2
"""What `choose` gives instead of an id: logits that are not finite; every id ruled out."""
NEGATIVE_INFINITY = np.float32(-np.inf)


class Settings(NamedTuple):
    """`niels_gpt.sampling.Sampling` by slot.

    A top_k, top_p, min_p or typical_p of 0 keeps all, a penalty of 1 and the other two of 0 are none.
    """

    temperature: np.ndarray  # float32
    top_k: np.ndarray  # int64
    top_p: np.ndarray  # float64
    penalty: np.ndarray  # float32
    min_p: np.ndarray  # float64
    typical_p: np.ndarray  # float64
    frequency: np.ndarray  # float32
    presence: np.ndarray  # float32


def new_settings(slots: int) -> Settings:
    """Settings of as many slots, all greedy until `set_slot` says otherwise."""
    narrow, wide = np.float32, np.float64
    kinds = (narrow, np.int64, wide, narrow, wide, wide, narrow, narrow)
    return Settings(*(np.zeros(slots, kind) for kind in kinds))


def set_slot(settings: Settings, slot: int, sampling: Sampling) -> None:
    """Let one slot sample so."""
    settings.temperature[slot] = sampling.temperature
    settings.top_k[slot] = sampling.top_k or 0
    settings.top_p[slot] = sampling.top_p or 0.0
    settings.penalty[slot] = sampling.repetition_penalty or 1.0
    settings.min_p[slot] = sampling.min_p or 0.0
    settings.typical_p[slot] = sampling.typical_p or 0.0
    settings.frequency[slot] = sampling.frequency_penalty or 0.0
    settings.presence[slot] = sampling.presence_penalty or 0.0


class Scratch(NamedTuple):
    """Room for one draw."""

    scaled: np.ndarray
    """(V in whole vectors,) float32: all logits after penalty and bans."""
    weights: np.ndarray
    """(V in whole vectors,) float32: the candidates' weights."""
    ids: np.ndarray
    """(V,) int64: the candidates' ids."""
    order: np.ndarray
    """(V,) int64: indices of candidates."""
    total: np.ndarray
    """(1,) float32: the sum of their weights, which the draw does not use: it sums in float64."""


@compiled
def choose(logits, V, counts, banned, settings, slot, uniform, scratch):
    """(id, margin) for logits (at least V,) float32 of one slot.

    By id: `counts` says how often it occurred in prompt and reply, `banned` whether it is ruled out.
    """
    if spoiled_row(_at(logits), V) != 0.0:
        return np.int64(SPOILED), 0.0
    scaled = scratch.scaled
    _rule_out(logits, V, counts, banned, settings, slot, scaled)
    largest = largest_in_row(_at(scaled), V)
    if largest == NEGATIVE_INFINITY:
        return np.int64(NOTHING_LEFT), 0.0
    if settings.temperature[slot] == 0.0:
        return _likeliest(scaled, V, largest)
    k = settings.top_k[slot]
    if k == 0 or k > V:
        k = V
    for i in range(V):
        scaled[i] = (scaled[i] - largest) / settings.temperature[slot]
    kept = _largest_k(scaled, V, k, scratch.ids)
    for i in range(kept):
        scratch.weights[i] = scaled[scratch.ids[i]]
    at = _at(scratch.weights)
    exp_row(at, at, kept, np.float32(0.0), _at(scratch.total))
    if settings.min_p[slot] > 0.0:
        kept = _likely_enough(scratch.weights, scratch.ids, kept, settings.min_p[slot])
    if 0.0 < settings.typical_p[slot] < 1.0:
        kept = _typical(scaled, scratch.weights, scratch.ids, kept, settings.typical_p[slot], scratch.order)
    if 0.0 < settings.top_p[slot] < 1.0:
        kept = _nucleus(scratch.weights, scratch.ids, kept, settings.top_p[slot], scratch.order)
    return _draw(scratch.weights, scratch.ids, kept, uniform)


@compiled
def _at(array):
    return np.int64(array.ctypes.data)


@compiled
def _rule_out(logits, V, counts, banned, settings, slot, scaled):
    penalty, frequency, presence = settings.penalty[slot], settings.frequency[slot], settings.presence[slot]
    penalised = penalty != 1.0 or frequency != 0.0 or presence != 0.0
    for i in range(V):
        value = logits[i]
        if penalised and counts[i] > 0:
            value = value / penalty if value > 0.0 else value * penalty
            value -= frequency * np.float32(counts[i]) + presence
        scaled[i] = NEGATIVE_INFINITY if banned[i] else value


@compiled
def _likeliest(scaled, V, largest):
    best, second = -1, NEGATIVE_INFINITY
    for i in range(V):
        if best < 0 and scaled[i] == largest:
            best = i
        elif scaled[i] > second:
            second = scaled[i]
    return np.int64(best), float(largest) - float(second)


@compiled
def _largest_k(scaled, V, k, ids):
    """The ids of the k largest in ascending order; how many (fewer than k if ids are ruled out)."""
    if k == V:
        return _possible(scaled, V, ids)
    # A heap of the best so far with the worst of them on top: the smallest value, of equals the highest id.
    # Later ids enter only if they are strictly larger, so the lowest stay among equals.
    size = 0
    for start in range(0, V, LANES):
        end = min(start + LANES, V)
        if size == k and not largest_in_row(_at(scaled[start:]), end - start) > scaled[ids[0]]:
            continue  # sixteen passed over at once
        for i in range(start, end):
            if size < k and scaled[i] > NEGATIVE_INFINITY:
                ids[size] = i
                size += 1
                if size == k:
                    for node in range(k // 2 - 1, -1, -1):
                        _sink(scaled, ids, k, node)
            elif size == k and scaled[i] > scaled[ids[0]]:
                ids[0] = i
                _sink(scaled, ids, k, 0)
    ids[:size].sort()
    return size


@compiled
def _possible(scaled, V, ids):
    """All ids that are not ruled out, in ascending order; how many."""
    count = 0
    for i in range(V):
        if scaled[i] > NEGATIVE_INFINITY:
            ids[count] = i
            count += 1
    return count


@compiled
def _sink(scaled, ids, size, node):
    while True:
        child = 2 * node + 1
        if child >= size:
            return
        if child + 1 < size and _worse(scaled, ids[child + 1], ids[child]):
            child += 1
        if not _worse(scaled, ids[child], ids[node]):
            return
        ids[node], ids[child] = ids[child], ids[node]
        node = child


@compiled
def _worse(scaled, a, b):
    return scaled[a] < scaled[b] or (scaled[a] == scaled[b] and a > b)


@compiled
def _likely_enough(weights, ids, count, least):
    """Keep the ids whose weight is at least that much, in their order; how many."""
    kept = 0
    for i in range(count):
        if weights[i] >= least:
            weights[kept], ids[kept] = weights[i], ids[i]
            kept += 1
    return kept


@compiled
def _typical(scaled, weights, ids, count, p, order):
    """Move the ids whose surprise is nearest the entropy to the front, in id order; how many.

    -log of a probability is log Z - x, the entropy its mean, so their distance is |x - mean of x|: no
    logarithm. Only ids within some distance are sorted; it grows until they reach p.
    """
    total = weighted = 0.0
    for i in range(count):
        total += np.float64(weights[i])
        weighted += np.float64(weights[i]) * np.float64(scaled[ids[i]])
    mean, reach = weighted / total, 1.0 / 16.0
    while True:
        found, mass = 0, 0.0
        for i in range(count):
            if abs(np.float64(scaled[ids[i]]) - mean) <= reach:
                order[found] = i
                mass += np.float64(weights[i])
                found += 1
        if found == count or mass >= p * total:
            distances = np.empty(found)
            for i in range(found):
                distances[i] = abs(np.float64(scaled[ids[order[i]]]) - mean)
            ranked = np.argsort(distances, kind="mergesort")  # stable: lowest ids first among equals
            size, enough = _reach(weights, order, ranked, p * total)
            if enough or found == count:
                return _to_front(weights, ids, order, ranked, size)
        reach *= 2.0


@compiled
def _reach(weights, order, ranked, target):
    """How many of `order`, taken as ranked, it needs until their sum reaches the target; whether it does."""
    running, size = 0.0, 0
    while size < ranked.size and running < target:
        running += np.float64(weights[order[ranked[size]]])
        size += 1
    return size, running >= target


@compiled
def _to_front(weights, ids, order, ranked, size):
    """Move the first `size` of the ranked to the front, in id order; how many they are."""
    chosen = np.sort(order[ranked[:size]])
    for i in range(size):
        weights[i], ids[i] = weights[chosen[i]], ids[chosen[i]]
    return size


@compiled
def _nucleus(weights, ids, count, p, order):
    """Move the nucleus to the front, in id order; how many ids it has.

    Few ids hold most of the weight, so only those above a bar are sorted; the bar falls until they reach p.
    """
    total = 0.0
    for i in range(count):
        total += np.float64(weights[i])
    bar = np.float32(1.0 / 64.0)
    while True:
        found = 0
        for i in range(count):
            if weights[i] >= bar:
                order[found] = i
                found += 1
        ranked = np.argsort(
            -weights[order[:found]], kind="mergesort"
        )  # stable: lowest ids first among equals
        size, enough = _reach(weights, order, ranked, p * total)
        if enough or found == count:
            return _to_front(weights, ids, order, ranked, size)
        bar = bar / np.float32(64.0) if bar > np.float32(1e-30) else np.float32(0.0)


@compiled
def _draw(weights, ids, count, uniform):
    total = 0.0
    for i in range(count):
        total += np.float64(weights[i])
    target, running = uniform * total, 0.0
    for i in range(count):
        before = running
        running += np.float64(weights[i])
        if running > target:
            return np.int64(ids[i]), min(target - before, running - target) / total
    # The product was rounded up to the total: the last id that has any weight.
    last = count - 1
    while last > 0 and weights[last] == 0.0:
        last -= 1
    return np.int64(ids[last]), 0.0
