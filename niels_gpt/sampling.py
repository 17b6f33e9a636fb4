"""From one row of logits to one token: the filters, and the draw that a conversation can repeat exactly.

`draw` takes one uniform double from the reply's own generator and inverts the cumulative distribution in id
order, so that a token is a function of (logits, settings, history, generator state) alone. The filters also
serve `generate`, which draws as its own document says. Knows nothing about models, text or stopping.

V vocabulary; "..." stands for any leading dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from niels_gpt.errors import NielsGptError


class LogitsError(NielsGptError):
    """A row of logits from which no token can be taken: NaN or infinity in it, or every token ruled out."""


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen; ValueError for a setting out of range."""

    temperature: float = 0.9
    """0 takes the likeliest token, the lowest id among equals."""
    top_k: int | None = 50
    """Keep the k likeliest tokens; None, or a k beyond the vocabulary, keeps all."""
    top_p: float | None = None
    """Keep the smallest set of likeliest tokens whose probabilities sum to at least p; None keeps all."""
    repetition_penalty: float | None = None
    """Above 1 makes tokens that already occurred less likely (Keskar et al. 2019, section 4.1)."""

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        if self.top_k is not None and (not _is_whole(self.top_k) or self.top_k < 1):
            raise ValueError(
                f"top_k is {self.top_k!r}, expected a whole number from 1, or None for all tokens"
            )
        if self.top_p is not None and not (_is_finite(self.top_p) and 0.0 < self.top_p <= 1.0):
            raise ValueError(f"top_p is {self.top_p!r}, expected a number in (0, 1], or None for all tokens")
        penalty = self.repetition_penalty
        if penalty is not None and not (_is_finite(penalty) and penalty > 0.0):
            raise ValueError(
                f"repetition_penalty is {penalty!r}, expected a positive number, or None for none"
            )


def draw(
    logits: Tensor,
    sampling: Sampling,
    history_ids: Iterable[int],
    banned_ids: Iterable[int],
    generator: torch.Generator,
) -> int:
    """Choose the next token from logits (V,), on any device; `generator` is a CPU generator.

    In this order: repetition penalty over `history_ids`, banned ids out, temperature, top-k, softmax, top-p,
    all in float64; then one uniform double and the inverse of the cumulative sum in id order. Temperature 0
    takes the likeliest token after the bans and draws nothing. Raises LogitsError (a ValueError).
    """
    row = checked_logits(logits).detach().to("cpu", torch.float64)
    if sampling.repetition_penalty is not None:
        row = penalize_repetition(row, history_ids, sampling.repetition_penalty)
    row = ban(row, banned_ids)
    if sampling.temperature == 0:
        return likeliest(row)
    # Shifted by the maximum first, so that no temperature can overflow.
    row = (row - row.max()) / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < row.shape[-1]:
        row = top_k_filter(row, sampling.top_k)
    probs = row.softmax(dim=-1)
    if sampling.top_p is not None:
        probs = top_p_filter(probs, sampling.top_p)
    return _inverse_cdf(probs, torch.rand((), dtype=torch.float64, generator=generator))


def _inverse_cdf(probs: Tensor, uniform: Tensor) -> int:
    """Return the first id whose cumulative probability exceeds `uniform`, in [0, 1); its own is above 0."""
    cdf = probs.cumsum(dim=-1)
    index = int(torch.searchsorted(cdf, uniform * cdf[-1], right=True))
    if index < probs.shape[-1]:
        return index
    return int(probs.nonzero()[-1])  # the product was rounded up to the total


def top_k_filter(logits: Tensor, k: int) -> Tensor:
    """Return logits (..., V) with all but the k largest of each row set to -inf.

    Exactly k survive: among equals the lowest ids do. Raises ValueError unless 1 <= k <= V.
    """
    V = logits.shape[-1]
    if not _is_whole(k) or not 1 <= k <= V:
        raise ValueError(f"top_k is {k!r}, expected a whole number from 1 to the vocabulary's {V}")
    least = logits.topk(k, dim=-1).values[..., -1:]  # the k-th largest, (..., 1)
    above, equal = logits > least, logits == least
    room = k - above.sum(dim=-1, keepdim=True)
    return logits.masked_fill(~(above | (equal & (equal.cumsum(dim=-1) <= room))), -math.inf)


def top_p_filter(probs: Tensor, p: float) -> Tensor:
    """Return probabilities (..., V) with all outside the nucleus at 0 and the rest summing to 1 again.

    The nucleus (Holtzman et al. 2019, section 3.1) is the smallest set of likeliest tokens whose sum reaches
    p; it has at least one token, and among equals the lowest ids come first. ValueError for p outside (0, 1].
    """
    if not _is_finite(p) or not 0.0 < p <= 1.0:
        raise ValueError(f"top_p is {p!r}, expected a number in (0, 1]")
    ordered, ids = probs.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1).roll(1, dims=-1)  # what the likelier tokens sum to
    before[..., 0] = 0.0
    kept = torch.zeros_like(probs).scatter(-1, ids, ordered.masked_fill(before >= p, 0.0))
    return kept / kept.sum(dim=-1, keepdim=True)


def penalize_repetition(logits: Tensor, history_ids: Iterable[int], penalty: float) -> Tensor:
    """Return logits (V,) in which each token of the history has its positive logit divided by `penalty`.

    Negative ones are multiplied by it. However often a token occurred, it is penalised once.
    """
    ids = torch.tensor(sorted(set(history_ids)), dtype=torch.long, device=logits.device)
    seen = logits[ids]
    return logits.index_copy(0, ids, torch.where(seen > 0, seen / penalty, seen * penalty))


def ban(logits: Tensor, banned_ids: Iterable[int]) -> Tensor:
    """Return logits (V,) with the banned ids at -inf; LogitsError if no token is left."""
    ids = torch.tensor(list(banned_ids), dtype=torch.long, device=logits.device)
    allowed = logits.index_fill(0, ids, -math.inf) if len(ids) else logits
    if bool((allowed == -math.inf).all()):
        raise LogitsError(f"all {len(logits)} tokens are ruled out; ban fewer ids")
    return allowed


def likeliest(logits: Tensor) -> int:
    """Return the id of the largest of logits (V,), the lowest id among equals."""
    return int((logits == logits.max()).nonzero()[0])


def checked_logits(logits: Tensor) -> Tensor:
    """Return logits (V,) as they are; LogitsError if they hold NaN or +infinity (-inf rules a token out)."""
    if logits.dim() != 1 or len(logits) == 0:
        raise LogitsError(f"the logits have shape {tuple(logits.shape)}, expected one row (V,)")
    if not bool((logits < math.inf).all()):
        bad = ~(logits < math.inf)
        found = (
            f"{logits[bad][0].item()} at id {int(bad.nonzero()[0])}, {int(bad.sum())} of {len(logits)} such"
        )
        msg = f"the model gave logits that are not numbers ({found}); its weights are damaged or diverged"
        raise LogitsError(msg)
    return logits


def check_temperature(temperature: float) -> None:
    """Raise ValueError unless `temperature` is a finite number from 0."""
    if not _is_finite(temperature) or temperature < 0.0:
        raise ValueError(f"temperature is {temperature!r}, expected a number from 0 (0 is greedy)")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
