"""The worked examples of the text generation guide."""

from __future__ import annotations

import pytest
import torch

from niels_gpt.sampling import nucleus_sampling, temperature_scaled_softmax

LOGITS = torch.tensor([[1.0, 2.0, 3.0, 0.5]])
PROBS = torch.tensor([[0.5, 0.3, 0.15, 0.05]])


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [
        (0.1, [2.06e-09, 4.54e-05, 0.99995, 1.39e-11]),
        (1.0, [0.0854, 0.2321, 0.6308, 0.0518]),
        (2.0, [0.1627, 0.2683, 0.4423, 0.1267]),
    ],
)
def test_temperature_makes_a_distribution_sharper_or_smoother(temperature: float, expected: list[float]):
    assert temperature_scaled_softmax(LOGITS, temperature)[0].tolist() == pytest.approx(
        expected, rel=5e-3, abs=6e-5
    )


@pytest.mark.parametrize(
    ("p", "expected"),
    [(0.8, [0.625, 0.375, 0.0, 0.0]), (0.5, [1.0, 0.0, 0.0, 0.0]), (1.0, [0.5, 0.3, 0.15, 0.05])],
)
def test_the_nucleus_is_the_smallest_set_that_reaches_p(p: float, expected: list[float]):
    assert nucleus_sampling(PROBS, p)[0].tolist() == pytest.approx(expected)


def test_the_nucleus_is_that_of_each_row():
    rows = torch.cat([PROBS, PROBS.flip(-1)])
    expected = [[0.625, 0.375, 0, 0], [0, 0, 0.375, 0.625]]
    for found, row in zip(nucleus_sampling(rows, 0.8).tolist(), expected, strict=True):
        assert found == pytest.approx(row)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_is_not_positive_is_an_error(temperature: float):
    with pytest.raises(ValueError, match="temperature"):
        temperature_scaled_softmax(LOGITS, temperature)


def test_no_temperature_overflows():
    assert temperature_scaled_softmax(LOGITS * 100, 1e-30).tolist() == [[0.0, 0.0, 1.0, 0.0]]
