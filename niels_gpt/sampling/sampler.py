"""The draw that a conversation can repeat exactly: one uniform double, the inverse of the distribution.

A token is a function of (logits, settings, history, generator state) alone. `niels_gpt.kernels.sampler` does
the same without torch. Functions that draw as their own documents say (`generate`) use the filters directly.

V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from niels_gpt.rng import UniformGenerator
from niels_gpt.sampling.errors import PENALTY_OVERFLOW, LogitsError
from niels_gpt.sampling.filters import (
    ban,
    likeliest,
    min_p_filter,
    penalize_counts,
    penalize_repetition,
    top_k_filter,
    top_p_filter,
    typical_filter,
)
from niels_gpt.sampling.settings import Sampling


def draw(
    logits: Tensor,
    sampling: Sampling,
    history_ids: Iterable[int],
    banned_ids: Iterable[int],
    generator: torch.Generator | UniformGenerator,
) -> int:
    """Choose the next token from logits (V,), on any device.

    `generator` is a CPU generator; a `UniformGenerator` of the same seed gives the same tokens.

    In this order: penalties over `history_ids`, banned ids out and temperature, in float32; top-k, softmax,
    min-p, typical and top-p, in float64; then one uniform double and the inverse of the cumulative sum in id
    order. Temperature 0 takes the likeliest token after the bans and draws nothing. Raises LogitsError (a
    ValueError).
    """
    row = scored(logits, sampling, history_ids, banned_ids)
    if sampling.is_greedy:
        return likeliest(row)
    if isinstance(generator, UniformGenerator):
        uniform = torch.tensor(generator.uniforms(1)[0])
    else:
        uniform = torch.rand((), dtype=torch.float64, generator=generator)
    return _inverse_cdf(filtered_probs(row, sampling), uniform)


def scored(
    logits: Tensor, sampling: Sampling, history_ids: Iterable[int], banned_ids: Iterable[int]
) -> Tensor:
    """Return logits (V,) on the CPU after the penalties and the bans.

    The penalties of float32 logits have the same bits as in the kernels.

    Raises:
        LogitsError: The logits are not finite, every token is banned, or a penalty takes a logit beyond
            float32.

    """
    row, banned = checked_logits(logits).detach().to("cpu"), list(banned_ids)
    if row.dtype != torch.float64:
        row = row.float()
    if sampling.repetition_penalty is not None or sampling.penalizes_counts:
        row = _penalized(row, sampling, list(history_ids), banned)
    if sampling.logit_bias:
        ids, biases = zip(*sampling.logit_bias, strict=True)
        row = row.index_add(0, torch.tensor(ids), torch.tensor(biases, dtype=row.dtype))
    return ban(row, banned)


def _penalized(row: Tensor, sampling: Sampling, history: list[int], banned: list[int]) -> Tensor:
    """Return logits (V,) after the penalties; LogitsError if one that is not banned overflows."""
    after = row
    if sampling.repetition_penalty is not None:
        after = penalize_repetition(after, history, sampling.repetition_penalty)
    if sampling.penalizes_counts:
        after = penalize_counts(
            after,
            history,
            frequency=sampling.frequency_penalty or 0.0,
            presence=sampling.presence_penalty or 0.0,
        )
    overflowed = row.isfinite() & ~after.isfinite()
    overflowed[banned] = False
    if bool(overflowed.any()):
        raise LogitsError(PENALTY_OVERFLOW)
    return after


def filtered_probs(row: Tensor, sampling: Sampling) -> Tensor:
    """Return the distribution (V,) float64 that is drawn from, for scores (V,) and a temperature above 0."""
    # Scores in float32 are divided in float32, as in the kernels, so that ranks and ties are the same. They
    # are shifted by the maximum first, so that no temperature can overflow.
    row = ((row - row.max()) / torch.tensor(sampling.temperature, dtype=row.dtype)).double()
    if sampling.top_k is not None and sampling.top_k < row.shape[-1]:
        row = top_k_filter(row, sampling.top_k)
    probs = row.softmax(dim=-1)
    if sampling.min_p is not None:
        probs = min_p_filter(probs, sampling.min_p)
    if sampling.typical_p is not None:
        probs = typical_filter(probs, sampling.typical_p)
    if sampling.top_p is not None:
        probs = top_p_filter(probs, sampling.top_p)
    return probs


def _inverse_cdf(probs: Tensor, uniform: Tensor) -> int:
    """Return the first id whose cumulative probability exceeds `uniform`, in [0, 1); its own is above 0."""
    cdf = probs.cumsum(dim=-1)
    index = int(torch.searchsorted(cdf, uniform * cdf[-1], right=True))
    if index < probs.shape[-1]:
        return index
    return int(probs.nonzero()[-1])  # the product was rounded up to the total


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
