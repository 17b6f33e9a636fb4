from __future__ import annotations

import hashlib

import numpy as np
import pytest

from niels_gpt.kernels.rope import rotary_tables
from niels_gpt.model.form import Rope


@pytest.mark.parametrize(
    ("T", "D", "theta"), [(1, 2, 1e4), (257, 64, 1e4), (40, 6, 1.0), (1000, 16, 65536.0)]
)
def test_the_tables_hold_the_cosine_and_the_signed_sine_of_each_angle(T, D, theta):
    cosine, sine = rotary_tables(T, D, Rope(theta=theta), 2 * D)
    angle = np.outer(np.arange(T), theta ** (-np.arange(0, D, 2) / D)).repeat(2, axis=1)
    signs = np.tile([-1.0, 1.0], D // 2)
    for table, expected in ((cosine, np.cos(angle)), (sine, np.sin(angle) * signs)):
        assert table.dtype == np.float32
        np.testing.assert_allclose(table[:, :D], expected, atol=7e-8)
        np.testing.assert_array_equal(table[:, D:], table[:, :D])


def test_their_bits_are_the_same_on_every_machine():
    digest = hashlib.sha256()
    for table in rotary_tables(512, 64, Rope(), 64):
        digest.update(table.astype("<f4").tobytes())
    assert digest.hexdigest()[:16] == "f634e08a68e3a165"
