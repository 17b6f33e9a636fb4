"""Filter logits and probabilities before sampling; no function changes its input.

Filters over logits set removed tokens to -inf. Filters over probabilities set them to 0 and renormalise the
rest. Among equals the lowest ids are always kept.

V vocabulary; "..." stands for any leading dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from niels_gpt.sampling.errors import LogitsError, all_banned
from niels_gpt.sampling.settings import check_positive_temperature, check_share, is_finite, is_whole


def temperature_scaled_softmax(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return softmax(logits / temperature) over (..., V); raise ValueError unless the temperature is > 0."""
    check_positive_temperature(temperature)
    # Shifted by the maximum first, so that no temperature can overflow.
    return ((logits - logits.amax(dim=-1, keepdim=True)) / temperature).softmax(dim=-1)


def nucleus_sampling(probs: Tensor, p: float = 0.9) -> Tensor:
    """Return the distribution (..., V) that nucleus sampling with `p` draws from; see `top_p_filter`."""
    return top_p_filter(probs, p)


def top_k_filter(logits: Tensor, k: int) -> Tensor:
    """Return logits (..., V) with all but the k largest of each row set to -inf.

    Exactly k are kept, among equals the lowest ids. Raises ValueError unless 1 <= k <= V.
    """
    V = logits.shape[-1]
    if not is_whole(k) or not 1 <= k <= V:
        raise ValueError(f"top_k is {k!r}, expected a whole number from 1 to the vocabulary's {V}")
    least = logits.topk(k, dim=-1).values[..., -1:]  # the k-th largest, (..., 1)
    above, equal = logits > least, logits == least
    room = k - above.sum(dim=-1, keepdim=True)
    return logits.masked_fill(~(above | (equal & (equal.cumsum(dim=-1) <= room))), -math.inf)


def top_p_filter(probs: Tensor, p: float) -> Tensor:
    """Return probabilities (..., V) with tokens outside the nucleus at 0 and the rest renormalised.

    The nucleus (Holtzman et al. 2019, section 3.1) is the smallest set of likeliest tokens whose sum reaches
    p; it has at least one token, and among equals the lowest ids come first. Raises ValueError for p outside
    (0, 1].
    """
    check_share("top_p", p)
    return _smallest_set(probs, -probs, p)


def typical_filter(probs: Tensor, p: float) -> Tensor:
    """Return probabilities (..., V) with all but the locally typical tokens at 0, the rest renormalised.

    Tokens are ordered by the distance of their surprise, -log of the probability, from the row's entropy
    (Meister et al. 2022, section 4). The shortest prefix of this order whose sum reaches p is kept. Raises
    ValueError for p outside (0, 1].
    """
    check_share("typical_p", p)
    surprise = -probs.log()
    entropy = (probs * surprise.masked_fill(probs == 0, 0.0)).sum(dim=-1, keepdim=True)
    return _smallest_set(probs, (surprise - entropy).abs(), p)


def min_p_filter(probs: Tensor, p: float) -> Tensor:
    """Return probabilities (..., V) with those below p times the largest at 0, the rest renormalised.

    Nguyen et al. 2024 (arXiv 2407.01082), section 3. Raises ValueError for p outside [0, 1].
    """
    if not is_finite(p) or not 0.0 <= p <= 1.0:
        raise ValueError(f"min_p is {p!r}, expected a number in [0, 1]")
    kept = probs.masked_fill(probs < p * probs.amax(dim=-1, keepdim=True), 0.0)
    return kept / kept.sum(dim=-1, keepdim=True)


def _smallest_set(probs: Tensor, rank: Tensor, p: float) -> Tensor:
    """Keep tokens in ascending order of `rank`, ids breaking ties, until their sum reaches p."""
    ids = rank.sort(dim=-1, stable=True).indices
    ordered = probs.gather(-1, ids)
    before = ordered.cumsum(dim=-1).roll(1, dims=-1)  # the sum of the earlier tokens
    before[..., 0] = 0.0
    kept = torch.zeros_like(probs).scatter(-1, ids, ordered.masked_fill(before >= p, 0.0))
    return kept / kept.sum(dim=-1, keepdim=True)


def penalize_repetition(logits: Tensor, history_ids: Iterable[int], penalty: float) -> Tensor:
    """Return logits (V,) in which each token of the history has its positive logit divided by `penalty`.

    Negative logits are multiplied by it; dividing them would make a repeated token likelier. A token is
    penalised once, however often it occurred.
    """
    ids = torch.tensor(sorted(set(history_ids)), dtype=torch.long, device=logits.device)
    seen = logits[ids]
    return logits.index_copy(0, ids, torch.where(seen > 0, seen / penalty, seen * penalty))


def penalize_counts(
    logits: Tensor, history_ids: Iterable[int], *, frequency: float = 0.0, presence: float = 0.0
) -> Tensor:
    """Return logits (V,) minus `frequency` * count in the history, minus `presence` for tokens in it."""
    ids = torch.tensor(list(history_ids), dtype=torch.long, device=logits.device)
    counts = torch.bincount(ids, minlength=len(logits)).to(logits.dtype)
    return logits - (frequency * counts + presence * (counts > 0))


def ban(logits: Tensor, banned_ids: Iterable[int]) -> Tensor:
    """Return logits (V,) with the banned ids at -inf; raise LogitsError if no token is left."""
    ids = torch.tensor(list(banned_ids), dtype=torch.long, device=logits.device)
    allowed = logits.index_fill(0, ids, -math.inf) if len(ids) else logits
    if bool((allowed == -math.inf).all()):
        raise LogitsError(all_banned(len(logits)))
    return allowed


def likeliest(logits: Tensor) -> int:
    """Return the id of the largest of logits (V,), the lowest id among equals."""
    return int((logits == logits.max()).nonzero()[0])
