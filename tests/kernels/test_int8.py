from __future__ import annotations

import hashlib
from fractions import Fraction

import numpy as np
import pytest
import torch

from niels_gpt.kernels.gpt_packing import pack_gpt
from niels_gpt.model.config import ModelConfig
from niels_gpt.model.fingerprint import int8_weights_digest, weights_digest
from niels_gpt.model.gpt import GPT
from niels_gpt.model.int8 import quantised
from tests.kernels.models import SHAPES, build, read_in


def numbers(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def exactly(value: np.floating) -> Fraction:
    return Fraction(float(value))


def test_an_integer_is_the_nearest_to_weight_over_scale_and_ties_go_to_the_even_one():
    weight = numbers(1, 7, 50)
    weight[0] = np.arange(50) - 24.5  # halves, under a scale of exactly 1
    weight[0, 0] = 127.0
    integers, scales = quantised(weight)
    assert scales[0] == 1.0
    assert integers[0, 1:5].tolist() == [-24, -22, -22, -20]
    for column, whole, scale in zip(weight, integers, scales, strict=True):
        assert scale == np.abs(column).max() / np.float32(127)
        assert whole.tolist() == [round(exactly(value) / exactly(scale)) for value in column]


def test_the_largest_weight_of_a_column_keeps_its_value_to_half_a_step():
    weight = numbers(2, 40, 64)
    integers, scales = quantised(weight)
    assert np.abs(integers).max(axis=1).tolist() == [127] * 40
    assert (np.abs(integers * scales[:, None] - weight) <= 0.5001 * scales[:, None]).all()


def test_a_column_of_zeros_stays_zero():
    integers, scales = quantised(np.zeros((2, 5), np.float32))
    assert not integers.any()
    assert scales.tolist() == [0.0, 0.0]


def test_weights_near_the_smallest_float_stay_within_eight_bits():
    units = np.array([[1, 0], [90, -200], [300, -1]], np.float32)  # of the smallest float: scales are coarse
    integers, scales = quantised(units * np.float32(1e-45))
    assert (integers[0].tolist(), scales[0]) == ([0, 0], 0.0)
    assert integers[1].tolist() == [45, -100]
    assert integers[2].tolist() == [127, 0]


@pytest.mark.parametrize("spoiled", [np.inf, -np.inf, np.nan])
def test_a_weight_that_is_not_finite_spoils_its_column_alone(spoiled):
    weight = numbers(3, 3, 4)
    weight[1, 2] = spoiled
    integers, scales = quantised(weight)
    assert np.isnan(scales).tolist() == [False, True, False]
    assert not integers[1].any()


def test_the_integers_are_the_same_on_every_machine():
    values = (np.arange(5000) * 7919 % 10007 / 10007 - 0.5).astype(np.float32).reshape(20, 250)
    integers, scales = quantised(values)
    digest = hashlib.sha256(integers.tobytes() + scales.astype("<f4").tobytes())
    assert digest.hexdigest()[:16] == "296dc5872d8a6a3c"


def test_int8_weights_are_another_model():
    whole, less = build(SHAPES["default form"]), build(SHAPES["default form"], form="int8")
    ids = list(range(20))
    found, expected = read_in(less.packed, ids, [20]), read_in(whole.packed, ids, [20])
    assert 1e-4 < np.abs(found - expected).max() < 0.5


def test_a_large_model_takes_a_quarter_of_the_memory():
    model = GPT(ModelConfig(V=256, T=16, C=256, L=2, H=4, d_ff=1024))
    assert pack_gpt(model, "int8").nbytes < 0.35 * pack_gpt(model).nbytes


@pytest.fixture
def model() -> GPT:
    return build(ModelConfig(V=40, T=8, C=16, L=1, H=2, d_ff=16), seed=5).torch


def test_the_digest_of_int8_weights_is_its_own(model):
    assert int8_weights_digest(model) != weights_digest(model)


def test_it_changes_with_every_parameter(model):
    before = int8_weights_digest(model)
    for name, parameter in model.named_parameters():
        kept = parameter.data.clone()
        parameter.data.reshape(-1)[0] += 0.5
        assert int8_weights_digest(model) != before, name
        parameter.data = kept
    assert int8_weights_digest(model) == before


def test_it_does_not_change_with_what_rounding_takes_away(model):
    before, whole_before = int8_weights_digest(model), weights_digest(model)
    weight = model.layers()[0].attn.proj.weight.data
    integers, scales = quantised(weight.numpy())
    at = int(np.argmin(np.abs(integers[0])))
    weight[0, at] = float(integers[0, at] * scales[0])
    assert weights_digest(model) != whole_before
    assert int8_weights_digest(model) == before


def test_the_digest_is_what_its_description_says():
    linear, norm = torch.nn.Linear(3, 2), torch.nn.LayerNorm(2, bias=False)
    integers, scales = quantised(linear.weight.detach().numpy())
    expected = hashlib.sha256()
    for name, value in (("0.bias", linear.bias), ("1.weight", norm.weight)):
        expected.update(f"{name}\0torch.float32\0{tuple(value.shape)}\0".encode())
        expected.update(value.detach().numpy().astype("<f4").tobytes())
    expected.update(b"0.weight\0int8\0(2, 3)\0" + integers.tobytes() + scales.astype("<f4").tobytes())
    assert int8_weights_digest(torch.nn.Sequential(linear, norm)) == expected.hexdigest()
