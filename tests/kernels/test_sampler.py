from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from niels_gpt.kernels.processor import padded
from niels_gpt.kernels.sampler import sample
from niels_gpt.kernels.slots import NON_FINITE, NOTHING_LEFT, OVERFLOW, new_scratch, new_settings, set_slot
from niels_gpt.sampling import LogitsError, Sampling, draw
from niels_gpt.sampling.settings import MAX_TEMPERATURE

V = 300


def kernel_draw(logits, sampling: Sampling, uniform: float, history=(), banned=()) -> tuple[int, float]:
    counts = np.bincount(np.array(history, np.int64), minlength=len(logits)).astype(np.int32)
    out = np.zeros(len(logits), np.bool_)
    out[list(banned)] = True
    settings = new_settings(1)
    set_slot(settings, 0, sampling)
    row = np.zeros(padded(len(logits)), np.float32)
    row[: len(logits)] = logits
    scratch = new_scratch(len(logits), len(row))
    return sample(row, len(logits), counts, out, settings, 0, uniform, scratch)


def logits(seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(V) * 3).astype(np.float32)


SAMPLINGS = [
    Sampling(temperature=1.0, top_k=None),
    Sampling(),
    Sampling(temperature=0.3, top_k=7),
    Sampling(top_k=1),
    Sampling(top_k=V),
    Sampling(top_k=V + 50),
    Sampling(top_k=None, top_p=0.9),
    Sampling(top_k=None, top_p=0.999999),
    Sampling(top_k=40, top_p=0.5),
    Sampling(top_k=None, top_p=0.01),
    Sampling(top_k=20, repetition_penalty=1.4),
    Sampling(temperature=0.0),
    Sampling(temperature=0.0, repetition_penalty=2.0),
    Sampling(temperature=100.0, top_k=None),
    Sampling(temperature=0.001, top_k=None),
    Sampling(top_k=None, min_p=0.05),
    Sampling(temperature=1.5, top_k=40, min_p=0.3),
    Sampling(top_k=None, min_p=1.0),
    Sampling(temperature=1.0, top_k=None, typical_p=0.5),
    Sampling(temperature=2.0, top_k=30, typical_p=0.95),
    Sampling(top_k=None, typical_p=1e-6),
    Sampling(temperature=1.2, top_k=60, top_p=0.9, min_p=0.02, typical_p=0.9),
    Sampling(frequency_penalty=0.7, presence_penalty=0.4),
    Sampling(temperature=0.0, frequency_penalty=1.5),
    Sampling(temperature=0.0, presence_penalty=-2.0),
    Sampling(logit_bias=((3, 4.5), (7, -100.0)), frequency_penalty=0.5),
    Sampling(temperature=0.0, logit_bias=((299, 100.0),)),
    Sampling(repetition_penalty=1.3, frequency_penalty=-0.2, presence_penalty=0.9),
]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_it_draws_what_the_torch_twin_draws(sampling):
    history, banned = [*range(0, V, 5), *range(0, V, 15), 30, 30], range(0, V, 11)
    for seed in range(60):
        row = logits(seed)
        expected = draw(torch.from_numpy(row), sampling, history, banned, torch.Generator().manual_seed(seed))
        uniform = torch.rand((), dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).item()
        found, margin = kernel_draw(row, sampling, uniform, history, banned)
        assert found == expected or margin < 1e-6


def magnitudes(lowest: float, highest: float) -> st.SearchStrategy[float]:
    return st.floats(lowest, highest).map(lambda exponent: 10.0**exponent)


penalties = st.one_of(st.just(0.0), magnitudes(-30, 30), magnitudes(-30, 30).map(float.__neg__))


@st.composite
def settings_and_size(drawn: st.DrawFn) -> tuple[Sampling, float]:
    """All that is accepted, and how large the logits are."""
    size = drawn(st.sampled_from([1.0, 1e-30, 1e8, 3e38]))
    temperature = drawn(st.sampled_from([0.0, 5e-324, 1e-45, 1e-38, MAX_TEMPERATURE]) | magnitudes(-50, 38))
    # Otherwise the weights differ by less than float32 can tell, and a nucleus takes other ones of equals.
    ranked = temperature < 1e4 * size
    share = st.none() | st.floats(1e-300, 1.0)
    sampling = Sampling(
        temperature=temperature,
        top_k=drawn(st.none() | st.integers(1, 2 * V) | st.just(2**70)),
        top_p=drawn(share) if ranked else None,
        typical_p=drawn(share) if ranked else None,
        min_p=drawn(st.none() | st.floats(0.0, 1.0)) if ranked else None,
        repetition_penalty=drawn(st.none() | magnitudes(-30, 30)),
        frequency_penalty=drawn(st.none() | penalties),
        presence_penalty=drawn(st.none() | penalties),
    )
    return sampling, size


@settings(derandomize=True, max_examples=150, deadline=None, database=None)
@given(settings_and_size(), st.integers(0, 2**32))
def test_both_samplers_agree_over_all_settings_that_are_accepted(sampling_and_size, seed):
    sampling, size = sampling_and_size
    random = np.random.default_rng(seed)
    # Twentieths, so that no two are nearly equal.
    row = (random.integers(-20, 20, V) / np.float32(20) * np.float32(size)).astype(np.float32)
    history, banned = random.integers(0, V, 40).tolist(), random.integers(0, V, V // 2).tolist()
    uniform = torch.rand((), dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).item()
    found, margin = kernel_draw(row, sampling, uniform, history, banned)
    try:
        expected = draw(torch.from_numpy(row), sampling, history, banned, torch.Generator().manual_seed(seed))
    except LogitsError:
        assert found == OVERFLOW
    else:
        assert found not in banned
        assert found == expected or margin < 1e-5


@pytest.mark.parametrize("temperature", [0.0, 1e-3, 1.0, 1e38])
@pytest.mark.parametrize(
    ("logit", "penalties"),
    [
        (3e38, {"repetition_penalty": 1e-30}),
        (-3e38, {"repetition_penalty": 1e30}),
        (3.4028e38, {"frequency_penalty": -1e30}),
        (-3.4028e38, {"frequency_penalty": 1e30}),
    ],
)
def test_a_penalty_that_overflows_is_an_error_in_both_samplers(temperature, logit, penalties):
    row, history, banned = logits(1), [7] * 10_000, [0, 1]
    row[7] = logit
    sampling = Sampling(temperature, **penalties)
    assert kernel_draw(row, sampling, 0.5, history, banned)[0] == OVERFLOW
    with pytest.raises(LogitsError, match="use smaller penalties"):
        draw(torch.from_numpy(row), sampling, history, banned, torch.Generator())


def test_a_banned_id_may_overflow():
    row = logits(1)
    row[7] = 3e38
    sampling = Sampling(repetition_penalty=1e-30)
    assert kernel_draw(row, sampling, 0.5, [7], [7])[0] >= 0
    draw(torch.from_numpy(row), sampling, [7], [7], torch.Generator())


def test_a_draw_that_ignores_a_setting_would_be_noticed():
    plain, other = Sampling(temperature=1.0, top_k=None), Sampling(temperature=0.3, top_k=7)
    found = [kernel_draw(logits(seed), plain, 0.9)[0] for seed in range(60)]
    assert found != [kernel_draw(logits(seed), other, 0.9)[0] for seed in range(60)]


def test_among_equals_the_lowest_ids_stay():
    row = np.zeros(V, np.float32)
    row[[250, 100, 200]] = 1.0
    drawn = {kernel_draw(row, Sampling(top_k=2), u)[0] for u in np.linspace(0, 0.999, 50)}
    assert drawn == {100, 200}
    assert kernel_draw(row, Sampling(temperature=0.0), 0.0)[0] == 100


def test_the_nucleus_is_the_smallest_set_that_reaches_p():
    row = np.log(np.array([0.05, 0.5, 0.15, 0.3], np.float32))
    for p, nucleus in ((0.4, {1}), (0.79, {1, 3}), (0.81, {1, 2, 3}), (1.0, {0, 1, 2, 3})):
        sampling = Sampling(temperature=1.0, top_k=None, top_p=p)
        assert {kernel_draw(row, sampling, u)[0] for u in np.linspace(0, 0.9999, 400)} == nucleus


def test_ids_come_as_often_as_their_probabilities_say():
    row = np.log(np.array([0.1, 0.2, 0.3, 0.4], np.float32))
    uniforms = (np.arange(10_000) + 0.5) / 10_000
    sampling = Sampling(temperature=1.0, top_k=None)
    counts = np.bincount([kernel_draw(row, sampling, u)[0] for u in uniforms])
    np.testing.assert_allclose(counts, [1000, 2000, 3000, 4000], atol=1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 17, V - 1])
def test_logits_that_are_not_finite_give_no_token(bad, at):
    row = logits(1)
    row[at] = bad
    assert kernel_draw(row, Sampling(), 0.5)[0] == NON_FINITE


def test_if_every_id_is_banned_there_is_no_token():
    assert kernel_draw(logits(1), Sampling(), 0.5, banned=range(V))[0] == NOTHING_LEFT


def test_the_margin_says_how_far_the_choice_was_from_another():
    row = np.log(np.array([0.25, 0.75], np.float32))
    sampling = Sampling(temperature=1.0, top_k=None)
    assert kernel_draw(row, sampling, 0.2)[1] == pytest.approx(0.05, abs=1e-6)
    assert kernel_draw(row, sampling, 0.3)[1] == pytest.approx(0.05, abs=1e-6)
    greedy = kernel_draw(np.array([1.0, 3.5, 2.0], np.float32), Sampling(temperature=0.0), 0.0)
    assert greedy == (1, 1.5)
