"""Sample a token id from a row of logits without the GIL, as `niels_gpt.sampling.sampler` does with torch.

The steps in their order, in float32 unless noted:

1. Divide positive logits of seen ids by the repetition penalty, multiply others by it. Subtract frequency *
   count + presence. Set banned ids to -inf. Add the biases.
2. At temperature 0, return the id of the largest logit, the lowest id among equals.
3. Otherwise subtract the largest logit, divide by the temperature, keep the k largest (lowest ids first among
   equals), and take exp.
4. In float64, drop ids whose weight is below min_p (the largest weight is 1).
5. Keep the typical set: order ids by the distance |x - mean of x| from the expected logit, which equals the
   distance of their surprise from the entropy. Keep the smallest set whose sum in that order reaches p times
   the sum of all in id order (lowest ids first among equals).
6. Keep the nucleus in the same way, ordered by weight.
7. Return the first id at which the running sum in id order exceeds uniform * total.

`margin` measures how close the decision was. For a draw it is the distance of uniform * total to the nearer
end of the chosen id's interval, over the total. For temperature 0 it is the difference between the largest
and the second logit.

V vocabulary, k candidates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from niels_gpt.kernels.jit import ONE, ZERO, compiled, inner
from niels_gpt.kernels.processor import LANES
from niels_gpt.kernels.row_ops import exp_row, largest_in_row, spoiled_row
from niels_gpt.kernels.slots import NON_FINITE, NOTHING_LEFT, OVERFLOW, WIDEST

if TYPE_CHECKING:
    pass

NEGATIVE_INFINITY = np.float32(-np.inf)
INFINITY = np.float32(np.inf)
BEST, WORST = ONE, ZERO


@compiled
def sample(logits, V, counts, banned, settings, slot, uniform, scratch):
    """Return (id, margin) for logits (at least V,) float32 of one slot.

    `counts` is how often each id occurred in prompt and reply, `banned` whether it is ruled out.
    """
    if spoiled_row(_at(logits), V) != 0.0:
        return np.int64(NON_FINITE), 0.0
    scaled = scratch.scaled
    if _rule_out(logits, V, counts, banned, settings, slot, scaled):
        return np.int64(OVERFLOW), 0.0
    largest = largest_in_row(_at(scaled), V)
    if largest == NEGATIVE_INFINITY:
        return np.int64(NOTHING_LEFT), 0.0
    if settings.temperature[slot] == 0.0:
        return _likeliest(scaled, V, largest)
    k = min(settings.top_k[slot] or WIDEST, V)
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
        kept = _typical(scaled, scratch, kept, settings.typical_p[slot])
    if 0.0 < settings.top_p[slot] < 1.0:
        kept = _nucleus(scratch.weights, scratch.ids, kept, settings.top_p[slot], scratch.order)
    return _draw(scratch.weights, scratch.ids, kept, uniform)


@inner
def _at(array):
    return np.int64(array.ctypes.data)


@inner
def _rule_out(logits, V, counts, banned, settings, slot, scaled):
    """Apply penalties and bans; return whether a penalty overflowed float32."""
    overflow = False
    penalty, frequency, presence = settings.penalty[slot], settings.frequency[slot], settings.presence[slot]
    penalised = penalty != 1.0 or frequency != 0.0 or presence != 0.0
    for i in range(V):
        value = logits[i]
        if penalised and counts[i] > 0:
            value = value / penalty if value > 0.0 else value * penalty
            value -= frequency * np.float32(counts[i]) + presence
            overflow |= not banned[i] and not abs(value) < INFINITY
        scaled[i] = NEGATIVE_INFINITY if banned[i] else value
    for i in range(settings.biases[slot]):
        scaled[settings.bias_ids[slot, i]] += settings.bias[slot, i]
    return overflow


@inner
def _likeliest(scaled, V, largest):
    best, second = -1, NEGATIVE_INFINITY
    for i in range(V):
        if best < 0 and scaled[i] == largest:
            best = i
        elif scaled[i] > second:
            second = scaled[i]
    return np.int64(best), float(largest) - float(second)


@inner
def _largest_k(scaled, V, k, ids):
    """Store the ids of the k largest in ascending order; return how many (fewer if ids are ruled out)."""
    if k == V:
        return _possible(scaled, V, ids)
    # A heap of the best so far with the worst of them on top: the smallest value, of equals the highest id.
    # Later ids enter only if they are strictly larger, so the lowest stay among equals.
    size = ZERO
    for start in range(0, V, LANES):
        end = min(start + LANES, V)
        if size == k and not largest_in_row(_at(scaled[start:]), end - start) > scaled[ids[0]]:
            continue  # sixteen skipped at once
        for i in range(start, end):
            if size < k and scaled[i] > NEGATIVE_INFINITY:
                ids[size] = i
                size += 1
                if size == k:
                    _heap(scaled, ids, k, WORST)
            elif size == k and scaled[i] > scaled[ids[0]]:
                ids[0] = i
                _sink(scaled, ids, k, ZERO, WORST)
    if size < k:
        return size
    return _no_worse(scaled, V, ids[0], ids)


@inner
def _no_worse(scaled, V, worst, ids):
    """Store all ids that rank no lower than `worst`, in ascending order; return how many."""
    count = 0
    for i in range(V):
        if scaled[i] > scaled[worst] or (scaled[i] == scaled[worst] and i <= worst):
            ids[count] = i
            count += 1
    return count


@inner
def _possible(scaled, V, ids):
    """Store all ids that are not ruled out, in ascending order; return how many."""
    count = 0
    for i in range(V):
        if scaled[i] > NEGATIVE_INFINITY:
            ids[count] = i
            count += 1
    return count


@inner
def _heap(values, numbers, size, top):
    """Arrange numbers[:size] as a heap with the BEST or the WORST on top."""
    node = size // 2
    while node > 0:
        node -= 1
        _sink(values, numbers, size, node, top)


@inner
def _sink(values, numbers, size, node, top):
    while True:
        child = 2 * node + 1
        if child >= size:
            return
        if child + 1 < size and _above(values, numbers[child + 1], numbers[child], top):
            child += 1
        if not _above(values, numbers[child], numbers[node], top):
            return
        numbers[node], numbers[child] = numbers[child], numbers[node]
        node = child


@inner
def _above(values, a, b, top):
    """Return whether a is better than b (or worse): its value is larger, or equal and its number lower."""
    if values[a] != values[b]:
        return (values[a] > values[b]) == top
    return (a < b) == top


@inner
def _likely_enough(weights, ids, count, least):
    """Keep the ids whose weight is at least the threshold, in their order; return how many."""
    kept = 0
    for i in range(count):
        if weights[i] >= least:
            weights[kept], ids[kept] = weights[i], ids[i]
            kept += 1
    return kept


@inner
def _typical(scaled, scratch, count, p):
    """Move the ids whose surprise is nearest to the entropy to the front, in id order; return how many.

    -log of a probability is log Z - x, the entropy its mean, so their distance is |x - mean of x|: no
    logarithm. Only ids within some distance are sorted; it grows until they reach p.
    """
    weights, ids, order, nearness = scratch.weights, scratch.ids, scratch.order, scratch.nearness
    total = weighted = 0.0
    for i in range(count):
        total += np.float64(weights[i])
        weighted += np.float64(weights[i]) * np.float64(scaled[ids[i]])
    mean, reach = weighted / total, 1.0 / 16.0
    for i in range(count):
        nearness[i] = -abs(np.float64(scaled[ids[i]]) - mean)
    while True:
        found, mass = ZERO, 0.0
        for i in range(count):
            if nearness[i] >= -reach:
                order[found] = i
                mass += np.float64(weights[i])
                found += 1
        if found == count or mass >= p * total:
            last, enough = _reach(nearness, weights, order, found, p * total)
            if enough or found == count:
                return _to_front(nearness, weights, ids, count, last)
        reach *= 2.0


@inner
def _nucleus(weights, ids, count, p, order):
    """Move the nucleus to the front, in id order; return how many ids it has.

    Few ids hold most of the weight, so only those above a threshold are ranked. The threshold is lowered
    until they reach p.
    """
    total = 0.0
    for i in range(count):
        total += np.float64(weights[i])
    bar = np.float32(1.0 / 64.0)
    while True:
        found = ZERO
        for i in range(count):
            if weights[i] >= bar:
                order[found] = i
                found += 1
        last, enough = _reach(weights, weights, order, found, p * total)
        if enough or found == count:
            return _to_front(weights, weights, ids, count, last)
        bar = bar / np.float32(64.0) if bar > np.float32(1e-30) else np.float32(0.0)


@inner
def _reach(values, weights, order, count, target):
    """Take order[:count] by falling value, lowest first among equals, until their weights reach the target.

    Returns (the last one taken or -1, whether the weights reach the target).
    """
    running, last = 0.0, np.int64(-1)
    _heap(values, order, count, BEST)
    while count > 0 and running < target:
        last = order[0]
        running += np.float64(weights[last])
        count -= 1
        order[0] = order[count]
        _sink(values, order, count, ZERO, BEST)
    return last, running >= target


@inner
def _to_front(values, weights, ids, count, last):
    """Keep ids that rank no lower than `last` by value, in id order; return how many."""
    kept, bar = 0, values[last]
    for i in range(count):
        if last >= 0 and (values[i] > bar or (values[i] == bar and i <= last)):
            weights[kept], ids[kept] = weights[i], ids[i]
            kept += 1
    return kept


@inner
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
