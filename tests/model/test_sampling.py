"""Filters and the repeatable draw."""

from __future__ import annotations

import math

import pytest
import torch

from niels_gpt.rng import make_generator
from niels_gpt.sampling import (
    LogitsError,
    Sampling,
    ban,
    draw,
    penalize_repetition,
    top_k_filter,
    top_p_filter,
)

INF = math.inf
PLAIN = Sampling(temperature=1.0, top_k=None)


def test_top_k_keeps_exactly_k():
    kept = top_k_filter(torch.tensor([[1.0, 4.0, 2.0, 3.0], [0.0, -1.0, -2.0, -3.0]]), 2)
    assert kept.tolist() == [[-INF, 4.0, -INF, 3.0], [0.0, -1.0, -INF, -INF]]


def test_top_k_keeps_exactly_k_among_equals_lowest_ids_first():
    assert top_k_filter(torch.tensor([1.0, 2.0, 1.0, 1.0, 2.0]), 3).tolist() == [1.0, 2.0, -INF, -INF, 2.0]
    assert top_k_filter(torch.zeros(5), 2).tolist() == [0.0, 0.0, -INF, -INF, -INF]


def test_top_k_leaves_its_input_alone():
    logits = torch.tensor([1.0, 2.0])
    top_k_filter(logits, 1)
    assert logits.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("k", [0, -1, 5, 1.5, True])
def test_top_k_outside_the_vocabulary_is_an_error(k):
    with pytest.raises(ValueError, match="from 1 to the vocabulary's 4"):
        top_k_filter(torch.zeros(4), k)


def test_top_p_keeps_the_smallest_set_that_reaches_p():
    probs = torch.tensor([0.15, 0.5, 0.05, 0.3], dtype=torch.float64)
    assert top_p_filter(probs, 0.8).tolist() == pytest.approx([0.0, 0.625, 0.0, 0.375])
    assert top_p_filter(probs, 0.81).tolist() == pytest.approx([0.15 / 0.95, 0.5 / 0.95, 0.0, 0.3 / 0.95])
    assert top_p_filter(probs, 1.0).tolist() == pytest.approx(probs.tolist())


def test_top_p_keeps_at_least_one_token_the_lowest_id_among_equals():
    assert top_p_filter(torch.full((4,), 0.25), 1e-9).tolist() == [1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("p", [0.0, -0.1, 1.1, math.nan])
def test_top_p_outside_its_range_is_an_error(p):
    with pytest.raises(ValueError, match="top_p"):
        top_p_filter(torch.ones(1), p)


def test_the_repetition_penalty_divides_positive_and_multiplies_negative_logits_once():
    penalised = penalize_repetition(torch.tensor([2.0, -2.0, 2.0, 0.0]), [0, 1, 1, 3, 0], 2.0)
    assert penalised.tolist() == [1.0, -4.0, 2.0, 0.0]


def test_an_empty_history_is_no_penalty():
    assert penalize_repetition(torch.tensor([2.0, -2.0]), [], 2.0).tolist() == [2.0, -2.0]


def test_banned_tokens_are_impossible():
    assert ban(torch.tensor([1.0, 2.0, 3.0]), [2]).tolist() == [1.0, 2.0, -INF]


def test_banning_everything_is_an_error():
    with pytest.raises(LogitsError, match="ruled out"):
        ban(torch.zeros(2), [0, 1])


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": INF},
        {"top_k": 0},
        {"top_k": 2.0},
        {"top_p": 0.0},
        {"top_p": 1.01},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": math.nan},
    ],
)
def test_sampling_settings_out_of_range_are_errors_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Sampling(**wrong)


def test_temperature_zero_takes_the_lowest_of_the_likeliest_and_draws_nothing():
    generator = make_generator(1)
    before = generator.get_state()
    assert draw(torch.tensor([0.0, 3.0, 3.0]), Sampling(temperature=0), [], [], generator) == 1
    assert torch.equal(generator.get_state(), before)


def test_a_draw_inverts_the_cumulative_distribution_with_one_uniform_double():
    logits = torch.tensor([0.3, -1.0, 2.0, 0.5, 1.1])
    probs = logits.double().softmax(-1).tolist()
    for seed in range(50):
        uniform = torch.rand((), dtype=torch.float64, generator=make_generator(seed)).item()
        expected = next(i for i in range(5) if uniform < math.fsum(probs[: i + 1]))
        assert draw(logits, PLAIN, [], [], make_generator(seed)) == expected


def test_each_draw_takes_exactly_one_number_from_the_generator():
    generator, twin = make_generator(5), make_generator(5)
    for _ in range(3):
        draw(torch.zeros(7), Sampling(top_k=3, top_p=0.9), [], [], generator)
        torch.rand((), dtype=torch.float64, generator=twin)
    assert torch.equal(generator.get_state(), twin.get_state())


def test_draws_follow_the_distribution():
    probs = torch.tensor([0.1, 0.2, 0.3, 0.4])
    generator = make_generator(0)
    counts = torch.bincount(
        torch.tensor([draw(probs.log(), PLAIN, [], [], generator) for _ in range(4000)]), minlength=4
    )
    assert (counts / 4000 - probs).abs().max() < 0.03


def test_the_same_seed_draws_the_same_tokens_and_another_seed_others():
    logits = torch.randn(50, generator=make_generator(1))

    def tokens(seed: int) -> list[int]:
        generator = make_generator(seed)
        return [draw(logits, Sampling(), [], [], generator) for _ in range(20)]

    assert tokens(4) == tokens(4)
    assert tokens(4) != tokens(5)


def test_only_what_the_filters_leave_is_ever_drawn():
    logits = torch.tensor([5.0, 4.9, 4.8, 4.7, -3.0])
    generator = make_generator(0)
    sampling = Sampling(temperature=1.0, top_k=3, top_p=0.6)
    assert {draw(logits, sampling, [], [0], generator) for _ in range(200)} == {1, 2}


def test_a_top_k_beyond_the_vocabulary_means_all():
    drawn = {draw(torch.zeros(3), Sampling(top_k=99), [], [], make_generator(seed)) for seed in range(40)}
    assert drawn == {0, 1, 2}


def test_the_history_makes_repetition_less_likely():
    strong = Sampling(temperature=0, repetition_penalty=2.0)
    assert draw(torch.tensor([3.0, 2.0]), strong, [0], [], make_generator(0)) == 1


def test_a_tiny_temperature_is_nearly_greedy_and_overflows_nothing():
    assert (
        draw(torch.tensor([1e30, -1e30, 9.0]), Sampling(temperature=1e-300), [], [], make_generator(0)) == 0
    )


@pytest.mark.parametrize("bad", [math.nan, INF])
def test_logits_that_are_no_numbers_are_an_error_and_never_a_token(bad):
    for sampling in (Sampling(), Sampling(temperature=0)):
        with pytest.raises(LogitsError, match=f"{bad} at id 1, 1 of 3"):
            draw(torch.tensor([0.0, bad, 0.0]), sampling, [], [], make_generator(0))


def test_a_token_at_minus_infinity_is_merely_impossible():
    logits = torch.tensor([-INF, 0.0, -INF])
    assert {draw(logits, PLAIN, [], [], make_generator(seed)) for seed in range(20)} == {1}


def test_no_possible_token_is_an_error():
    with pytest.raises(LogitsError, match="ruled out"):
        draw(torch.full((3,), -INF), PLAIN, [], [], make_generator(0))


def test_a_block_of_logits_is_not_a_row():
    with pytest.raises(LogitsError, match="one row"):
        draw(torch.zeros(1, 3), PLAIN, [], [], make_generator(0))
