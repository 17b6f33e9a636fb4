"""min-p, typical, and the penalties that count."""

from __future__ import annotations

import math

import pytest
import torch

from niels_gpt.sampling import (
    Sampling,
    draw,
    min_p_filter,
    penalize_counts,
    penalize_repetition,
    scored,
    top_p_filter,
    typical_filter,
)


def test_min_p_keeps_what_is_likely_enough_beside_the_likeliest():
    probs = torch.tensor([0.5, 0.3, 0.15, 0.05])
    assert min_p_filter(probs, 0.3).tolist() == pytest.approx([0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0.0])
    assert min_p_filter(probs, 1.0).tolist() == [1.0, 0.0, 0.0, 0.0]
    assert min_p_filter(probs, 0.0).tolist() == pytest.approx(probs.tolist())


def test_typical_keeps_the_tokens_whose_surprise_is_nearest_the_entropy():
    probs = torch.tensor([0.5, 0.2, 0.2, 0.1], dtype=torch.float64)
    # The entropy is 1.22 nats; the surprises are 0.69, 1.61, 1.61 and 2.30.
    assert typical_filter(probs, 0.3).tolist() == pytest.approx([0.0, 0.5, 0.5, 0.0])
    assert typical_filter(probs, 0.2).tolist() == [0.0, 1.0, 0.0, 0.0]
    assert typical_filter(probs, 1.0).tolist() == pytest.approx(probs.tolist())


def test_typical_passes_over_what_is_impossible():
    assert typical_filter(torch.tensor([0.5, 0.0, 0.5]), 1.0).tolist() == [0.5, 0.0, 0.5]
    probs = torch.tensor([0.0, 0.25, 0.75])
    assert typical_filter(probs, 0.5).tolist() == [0.0, 0.0, 1.0]


def test_every_row_has_filters_of_its_own():
    rows = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    for keep in (min_p_filter, typical_filter, top_p_filter):
        assert keep(rows, 0.55).tolist() == [keep(row, 0.55).tolist() for row in rows]


@pytest.mark.parametrize(
    ("keep", "bad"), [(typical_filter, 0.0), (typical_filter, 1.5), (min_p_filter, -0.1)]
)
def test_a_filter_checks_its_share(keep, bad):
    with pytest.raises(ValueError, match=r"_p is .*, expected a number in"):
        keep(torch.tensor([0.5, 0.5]), bad)


def test_presence_alone_ignores_how_often_a_token_occurred():
    found = scored(torch.tensor([1.0, 1.0]), Sampling(presence_penalty=0.5), [0, 0], ())
    assert found.tolist() == [0.5, 1.0]


def test_frequency_counts_and_presence_does_not():
    logits = torch.tensor([1.0, 1.0, 1.0])
    found = penalize_counts(logits, [0, 0, 1], frequency=0.5, presence=0.1)
    assert found.tolist() == pytest.approx([-0.1, 0.4, 1.0])


def test_dividing_negative_logits_as_the_document_does_would_reward_repetition():
    logits = torch.tensor([-2.0, -1.0])
    ours, divided = penalize_repetition(logits, [0], 2.0), torch.tensor([-2.0 / 2.0, -1.0])
    assert ours.softmax(-1)[0] < logits.softmax(-1)[0] < divided.softmax(-1)[0]


@pytest.mark.parametrize(
    ("setting", "bad"),
    [
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("typical_p", 0.0),
        ("typical_p", 2),
        ("frequency_penalty", math.inf),
        ("presence_penalty", math.nan),
        ("min_p", True),
    ],
)
def test_a_setting_out_of_range_is_an_error_that_names_it(setting: str, bad: float):
    with pytest.raises(ValueError, match=f"{setting} is {bad!r}"):
        Sampling(**{setting: bad})


def test_greedy_choices_are_penalised_too():
    logits = torch.tensor([2.0, 1.9])
    sampling = Sampling(temperature=0.0, frequency_penalty=0.06)
    found = [draw(logits, sampling, [0] * count, (), torch.Generator()) for count in range(3)]
    assert found == [0, 0, 1]
