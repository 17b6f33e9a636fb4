"""Draw tokens from rows of logits, as docs/spec/arithmetic.md defines it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from verifier.float32 import F32, exp

Row = dict[str, Any]


def reply_seed(session_seed: int, turn: int, attempt: int) -> int:
    """Return the seed of a reply."""
    text = f"niels-gpt reply seed 1\0{session_seed}\0{turn}\0{attempt}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") & (2**63 - 1)


def uniforms(seed: int, count: int) -> np.ndarray:
    """Return the first doubles in [0, 1) of a seed: MT19937, two words each, the low 53 bits of the 64."""
    words = np.random.RandomState(seed & 0xFFFFFFFF).randint(0, 2**32, (count, 2), dtype=np.uint32)
    whole = (words[:, 0].astype(np.uint64) << np.uint64(32)) | words[:, 1].astype(np.uint64)
    return (whole & np.uint64(2**53 - 1)) * 2.0**-53


def draw(
    logits: np.ndarray, settings: Row, history: Sequence[int], banned: Iterable[int], uniform: float
) -> int:
    """Return the id drawn from logits (V,) after the ids in `history`, prompt included."""
    scores = _penalised(logits, settings, history)
    scores[list(banned)] = -np.inf
    temperature = F32(settings["temperature"])
    if temperature == 0:
        return int(np.argmax(scores))
    scores = (scores - scores.max()) / temperature
    ids = np.flatnonzero(scores > -np.inf)
    top_k = settings.get("top_k") or len(scores)
    if top_k < len(scores):
        ranked = sorted(ids, key=lambda i: (-scores[i], i))
        ids = np.array(sorted(ranked[:top_k]))
    weights = exp(scores[ids])
    if settings.get("min_p"):
        kept = weights >= settings["min_p"]
        ids, weights = ids[kept], weights[kept]
    typical_p = settings.get("typical_p")
    if typical_p and typical_p < 1:
        total = _running(weights)
        mean = _running(weights.astype(np.float64) * scores[ids].astype(np.float64)) / total
        nearness = -np.abs(scores[ids].astype(np.float64) - mean)
        ids, weights = _fewest(nearness, ids, weights, typical_p * total)
    top_p = settings.get("top_p")
    if top_p and top_p < 1:
        ids, weights = _fewest(weights, ids, weights, top_p * _running(weights))
    running = np.add.accumulate(weights, dtype=np.float64)
    beyond = np.flatnonzero(running > uniform * running[-1])
    return int(ids[beyond[0] if beyond.size else np.flatnonzero(weights)[-1]])


def row_sum(logits: np.ndarray, multipliers: np.ndarray) -> int:
    """Return the sum modulo 2**64 of a row's bit patterns times the multipliers."""
    return int((logits.view(np.uint32).astype(np.uint64) * multipliers).sum(dtype=np.uint64))


def row_multipliers(V: int) -> np.ndarray:
    """Return the first V numbers of SplitMix64 from state 0, made odd."""
    state = np.arange(1, V + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (state ^ (state >> np.uint64(31))) | np.uint64(1)


def logits_hash(sums: Iterable[int]) -> str:
    """Return the hash that stands for the rows of a reply."""
    return hashlib.sha256(b"".join(each.to_bytes(8, "little") for each in sums)).hexdigest()


def _penalised(logits: np.ndarray, settings: Row, history: Sequence[int]) -> np.ndarray:
    scores = logits.astype(F32)
    penalty = F32(settings.get("repetition_penalty") or 1)
    frequency = F32(settings.get("frequency_penalty") or 0)
    presence = F32(settings.get("presence_penalty") or 0)
    if penalty == 1 and frequency == 0 and presence == 0:
        return scores
    counts = np.bincount(history, minlength=len(scores))
    seen = counts > 0
    value = scores[seen]
    value = np.where(value > 0, value / penalty, value * penalty)
    scores[seen] = value - (frequency * counts[seen].astype(F32) + presence)
    return scores


def _running(values: np.ndarray) -> float:
    """Return the sum in float64, one value after another."""
    return float(np.add.accumulate(values, dtype=np.float64)[-1])


def _fewest(
    rank: np.ndarray, ids: np.ndarray, weights: np.ndarray, target: float
) -> tuple[np.ndarray, np.ndarray]:
    """Keep the fewest ids of highest rank, lowest first among equals, whose weights reach the target."""
    order = np.lexsort((ids, -rank))
    running = np.add.accumulate(weights[order], dtype=np.float64)
    kept = np.sort(order[: np.searchsorted(running, target) + 1])
    return ids[kept], weights[kept]
