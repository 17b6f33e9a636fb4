"""The smallest and the longest windows, against the torch twin in float64 and against themselves."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from niels_gpt.kernels import WeightForm
from niels_gpt.model.config import ModelConfig
from tests.kernels.models import Built, build, read_in

WINDOWS = {
    "one token": ModelConfig(V=9, T=1, C=16, L=1, H=1, d_ff=16),
    "one token, odd": ModelConfig(V=5, T=1, C=2, L=3, H=1, d_ff=3, norm="rmsnorm", mlp="swiglu"),
    "two tokens": ModelConfig(V=300, T=2, C=12, L=2, H=3, d_ff=7),
    "a long one": ModelConfig(V=40, T=1000, C=32, L=2, H=1, d_ff=40),
    "a long one, odd": ModelConfig(V=41, T=777, C=18, L=1, H=3, d_ff=21, norm="rmsnorm"),
    "wide heads": ModelConfig(V=33, T=90, C=160, L=1, H=1, d_ff=50),
}


@pytest.fixture(params=WINDOWS)
def window(request: pytest.FixtureRequest, form: WeightForm) -> Built:
    return build(WINDOWS[request.param], form=form)


@pytest.fixture
def full(window: Built) -> list[int]:
    return np.random.default_rng(8).integers(0, window.cfg.V, window.cfg.T).tolist()


def test_a_full_window_has_the_logits_of_the_torch_twin(window: Built, full: list[int]) -> None:
    with torch.inference_mode():
        expected = copy.deepcopy(window.torch).double()(torch.tensor([full]))[0].numpy()
    np.testing.assert_allclose(read_in(window.packed, full, [len(full)]), expected, atol=1e-4)


def test_the_last_tokens_of_a_full_window_are_the_same_one_by_one(window: Built, full: list[int]) -> None:
    whole = read_in(window.packed, full, [len(full)])
    singly = min(20, len(full) - 1)
    portions = [len(full) - singly, *[1] * singly]
    assert read_in(window.packed, full, portions).tobytes() == whole.tobytes()
