"""The filters against the logits processors of transformers, on random logits (extra `hf`)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from niels_gpt.sampling import Sampling, ban, filtered_probs, penalize_repetition, top_k_filter

ROWS = torch.randn(40, 97, dtype=torch.float64, generator=torch.Generator().manual_seed(5)) * 3
NO_IDS = torch.zeros(1, 0, dtype=torch.long)


@pytest.fixture(scope="module")
def process() -> Any:
    """Their processors; imported here, and not by every process that collects tests."""
    reason = "the extra hf (transformers) is not installed"
    return pytest.importorskip("transformers.generation.logits_process", reason=reason)


def theirs(row: torch.Tensor, *processors) -> torch.Tensor:
    scores = row[None]
    for processor in processors:
        scores = processor(NO_IDS, scores)
    return scores.softmax(-1)[0]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("k", [1, 7, 97])
def test_temperature_and_top_k(process: Any, temperature: float, k: int):
    for row in ROWS:
        ours = filtered_probs(row, Sampling(temperature=temperature, top_k=k))
        expected = theirs(
            row, process.TemperatureLogitsWarper(temperature), process.TopKLogitsWarper(top_k=k)
        )
        assert torch.allclose(ours, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9, 0.999])
def test_top_p_min_p_and_typical(process: Any, p: float):
    for row in ROWS:
        for setting, processor in (
            ("top_p", process.TopPLogitsWarper(top_p=p)),
            ("min_p", process.MinPLogitsWarper(min_p=p)),
            ("typical_p", process.TypicalLogitsWarper(mass=p)),
        ):
            ours = filtered_probs(row, Sampling(temperature=1.0, top_k=None, **{setting: p}))
            assert torch.allclose(ours, theirs(row, processor), rtol=1e-12, atol=1e-15), setting


def test_repetition_penalty(process: Any):
    history = torch.tensor([[3, 5, 5, 80]])
    for penalty in (1.0, 1.3, 0.7):
        processor = process.RepetitionPenaltyLogitsProcessor(penalty=penalty)
        for row in ROWS:
            ours = penalize_repetition(row, history[0].tolist(), penalty)
            assert torch.equal(ours, processor(history, row[None])[0])


def test_banned_ids(process: Any):
    processor = process.SuppressTokensLogitsProcessor([2, 96])
    for row in ROWS:
        assert torch.equal(ban(row, [2, 96]), processor(NO_IDS, row[None])[0])


def test_another_k_would_be_noticed(process: Any):
    row = ROWS[0]
    assert not torch.equal(top_k_filter(row, 6), process.TopKLogitsWarper(top_k=7)(NO_IDS, row[None])[0])
    assert (top_k_filter(row, 6) > -math.inf).sum() == 6
