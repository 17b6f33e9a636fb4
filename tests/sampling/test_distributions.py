"""Each sampler draws from exactly the distribution that it says: chi-square tests with fixed seeds.

The bound is the chi-square quantile of 1 - 1e-6, so that a right sampler fails once in a million seeds.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from niels_gpt.kernels.sampler import sample
from niels_gpt.kernels.slots import new_scratch, new_settings, set_slot
from niels_gpt.sampling import Sampling

V, DRAWS = 12, 20_000
LOGITS = np.array([0.1, 2.0, -1.0, 1.5, 0.0, 1.9, -3.0, 0.7, 1.1, -0.2, 2.2, 0.5], np.float32)
HISTORY, BANNED = [1, 1, 3, 10], [5]


def exact(sampling: Sampling) -> np.ndarray:
    """The distribution, from the definitions, in plain float64 numpy."""
    row = LOGITS.astype(np.float64)
    penalty = sampling.repetition_penalty or 1.0
    for i in set(HISTORY):
        row[i] = row[i] / penalty if row[i] > 0 else row[i] * penalty
        row[i] -= (sampling.frequency_penalty or 0) * HISTORY.count(i) + (sampling.presence_penalty or 0)
    row[BANNED] = -np.inf
    row /= sampling.temperature
    if sampling.top_k is not None and sampling.top_k < V:
        row[np.argsort(-row, kind="stable")[sampling.top_k :]] = -np.inf
    probs = softmax(row)
    if sampling.min_p is not None:
        probs = renormed(np.where(probs < sampling.min_p * probs.max(), 0, probs))
    if sampling.typical_p is not None:
        with np.errstate(divide="ignore"):
            surprise = -np.log(probs)
        entropy = sum(p * s for p, s in zip(probs, surprise, strict=True) if p > 0)
        probs = smallest(probs, np.abs(surprise - entropy), sampling.typical_p)
    if sampling.top_p is not None:
        probs = smallest(probs, -probs, sampling.top_p)
    return probs


def softmax(row: np.ndarray) -> np.ndarray:
    return renormed(np.exp(row - row.max()))


def renormed(probs: np.ndarray) -> np.ndarray:
    return probs / probs.sum()


def smallest(probs: np.ndarray, rank: np.ndarray, p: float) -> np.ndarray:
    kept, total = np.zeros_like(probs), 0.0
    for i in np.argsort(rank, kind="stable"):
        if total >= p:
            break
        kept[i], total = probs[i], total + probs[i]
    return renormed(kept)


def counts(sampling: Sampling, seed: int) -> np.ndarray:
    settings, scratch = new_settings(1), new_scratch(V, 16)
    set_slot(settings, 0, sampling)
    row = np.zeros(16, np.float32)
    row[:V] = LOGITS
    occurred = np.bincount(HISTORY, minlength=V).astype(np.int32)
    banned = np.isin(np.arange(V), BANNED)
    generator = torch.Generator().manual_seed(seed)
    uniforms = torch.rand(DRAWS, dtype=torch.float64, generator=generator).numpy()
    drawn = [sample(row, V, occurred, banned, settings, 0, u, scratch)[0] for u in uniforms]
    return np.bincount(drawn, minlength=V)


def chi_square(found: np.ndarray, probs: np.ndarray) -> tuple[float, float]:
    """The statistic and its bound, by Wilson and Hilferty's approximation of the quantile."""
    possible = probs > 0
    assert found[~possible].sum() == 0
    expected = probs[possible] * found.sum()
    degrees = max(1, int(possible.sum()) - 1)
    z = 4.753  # the normal quantile of 1 - 1e-6
    bound = degrees * (1 - 2 / (9 * degrees) + z * math.sqrt(2 / (9 * degrees))) ** 3
    return float(((found[possible] - expected) ** 2 / expected).sum()), bound


SAMPLINGS = [
    Sampling(temperature=1.0, top_k=None),
    Sampling(temperature=0.5, top_k=None),
    Sampling(temperature=2.0, top_k=None),
    Sampling(temperature=1.0, top_k=4),
    Sampling(temperature=1.0, top_k=None, top_p=0.8),
    Sampling(temperature=1.0, top_k=None, min_p=0.2),
    Sampling(temperature=1.0, top_k=None, typical_p=0.7),
    Sampling(temperature=1.0, top_k=None, repetition_penalty=1.5),
    Sampling(temperature=1.0, top_k=None, frequency_penalty=0.4, presence_penalty=0.3),
    Sampling(temperature=1.3, top_k=9, top_p=0.95, min_p=0.05, typical_p=0.97, repetition_penalty=1.2),
]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_frequencies_fit_the_exact_distribution(sampling: Sampling):
    statistic, bound = chi_square(counts(sampling, seed=11), exact(sampling))
    assert statistic < bound


def test_a_slightly_other_distribution_would_be_noticed():
    found = counts(Sampling(temperature=1.0, top_k=None), seed=11)
    statistic, bound = chi_square(found, exact(Sampling(temperature=1.1, top_k=None)))
    assert statistic > bound
