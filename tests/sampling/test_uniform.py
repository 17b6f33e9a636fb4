"""The uniform numbers of a reply are torch's, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from niels_gpt.rng import UniformGenerator, make_generator, reply_seed

SEEDS = [
    0,
    1,
    42,
    2**31,
    2**32 - 1,
    2**32,
    2**63 - 1,
    -1,
    -(2**63),
    reply_seed(42, 1, 0),
    reply_seed(7, 9, 3),
]


def torchs(seed: int, count: int) -> np.ndarray:
    return torch.rand(count, dtype=torch.float64, generator=make_generator(seed)).numpy()


@pytest.mark.parametrize("seed", SEEDS)
def test_every_kind_of_seed_gives_torchs_numbers(seed):
    assert np.array_equal(UniformGenerator(seed).uniforms(2_000), torchs(seed, 2_000))


def test_a_million_numbers_are_torchs():
    assert np.array_equal(UniformGenerator(5).uniforms(1_000_000), torchs(5, 1_000_000))


def test_portions_give_the_numbers_of_the_whole():
    generator = UniformGenerator(3)
    portions = np.concatenate([generator.uniforms(count) for count in (1, 64, 0, 7, 128)])
    assert np.array_equal(portions, UniformGenerator(3).uniforms(200))


def test_another_seed_gives_other_numbers():
    assert not np.array_equal(UniformGenerator(1).uniforms(10), torchs(2, 10))
