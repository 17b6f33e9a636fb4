from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

import numpy as np
import pytest

from niels_gpt.kernels import WeightForm
from niels_gpt.kernels.linear import linear
from niels_gpt.kernels.processor import aligned, padded
from niels_gpt.model.int8 import quantised
from tests.kernels.golden import KINDS, PACKS


def product(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, form: WeightForm = "float32") -> np.ndarray:
    (M, K), N = x.shape, weight.shape[0]
    row = padded(N)
    y, start = aligned(M * row), aligned(row)
    start[:N] = bias
    packed, x = PACKS[form](weight), np.ascontiguousarray(x)
    linear(
        KINDS[form], x.ctypes.data, K, packed.ctypes.data, packed[0].size, K,
        start.ctypes.data, 0, y.ctypes.data, row, M, 0, row // 16,
    )  # fmt: skip
    return y.reshape(M, row)[:, :N].copy()


def numbers(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def rounded(value: Fraction) -> np.float32:
    """The float32 nearest to an exact value, ties to even; normal range only."""
    if value == 0:
        return np.float32(0.0)
    exponent = abs(value.numerator).bit_length() - value.denominator.bit_length()
    while abs(value) >= Fraction(2) ** (exponent + 1):
        exponent += 1
    while abs(value) < Fraction(2) ** exponent:
        exponent -= 1
    unit = Fraction(2) ** (exponent - 23)
    return np.float32(float(round(value / unit) * unit))


def chain(x: Iterable[np.float32], w: Iterable[np.number], start: np.float32) -> np.float32:
    """The definition, in exact arithmetic: one rounding for each fused multiply-add, k ascending."""
    total = start
    for a, b in zip(x, w, strict=True):
        total = rounded(Fraction(float(a)) * Fraction(float(b)) + Fraction(float(total)))
    return total


def test_every_output_is_one_chain_of_fused_multiply_adds_in_order():
    x, weight, bias = numbers(1, 3, 19), numbers(2, 21, 19), numbers(3, 21)
    expected = np.array([[chain(row, w, b) for w, b in zip(weight, bias, strict=True)] for row in x])
    assert product(x, weight, bias).tobytes() == expected.astype(np.float32).tobytes()


def test_every_int8_output_is_one_chain_over_the_integers_and_one_step_with_the_scale():
    x, weight, bias = numbers(1, 3, 19), numbers(2, 21, 19), numbers(3, 21)
    integers, scales = quantised(weight)
    expected = np.empty((3, 21), np.float32)
    for m, row in enumerate(x):
        for n, (column, scale) in enumerate(zip(integers, scales, strict=True)):
            expected[m, n] = chain([chain(row, column, np.float32(0.0))], [scale], bias[n])
    assert product(x, weight, bias, "int8").tobytes() == expected.tobytes()


def test_that_check_notices_another_order():
    x, weight, bias = numbers(1, 3, 19), numbers(2, 21, 19), numbers(3, 21)
    expected = np.array([[chain(row, w, b) for w, b in zip(weight, bias, strict=True)] for row in x])
    backwards = product(x[:, ::-1], np.ascontiguousarray(weight[:, ::-1]), bias)
    assert backwards.tobytes() != expected.astype(np.float32).tobytes()
    np.testing.assert_allclose(backwards, expected, atol=1e-5)


def test_int8_products_notice_another_order_too():
    x, weight, bias = numbers(1, 3, 19), numbers(2, 21, 19), numbers(3, 21)
    forwards = product(x, weight, bias, "int8")
    backwards = product(x[:, ::-1], np.ascontiguousarray(weight[:, ::-1]), bias, "int8")
    assert backwards.tobytes() != forwards.tobytes()
    np.testing.assert_allclose(backwards, forwards, atol=1e-5)


@pytest.mark.parametrize("N", [1, 15, 16, 17, 64, 100, 144])
def test_a_row_has_the_same_bits_in_every_batch(N, form):
    x, weight, bias = numbers(4, 29, 37), numbers(5, N, 37), numbers(6, N)
    whole = product(x, weight, bias, form)
    for rows in range(1, 29):
        assert product(x[:rows], weight, bias, form).tobytes() == whole[:rows].tobytes()


def test_numpy_in_the_same_test_differs_between_batches():
    x, weight = numbers(4, 29, 337), numbers(5, 64, 337)
    whole = x @ weight.T
    assert any((x[:rows] @ weight.T).tobytes() != whole[:rows].tobytes() for rows in range(1, 29))


def test_a_share_of_the_columns_has_the_bits_of_the_whole(form):
    x, weight = numbers(7, 5, 40), numbers(8, 160, 40)
    whole = product(x, weight, np.zeros(160, np.float32), form)
    y, zeros, packed = aligned(5 * 160), aligned(160), PACKS[form](weight)
    for first, last in ((0, 3), (3, 4), (4, 10)):
        linear(
            KINDS[form], x.ctypes.data, 40, packed.ctypes.data, packed[0].size, 40,
            zeros.ctypes.data, 0, y.ctypes.data, 160, 5, first, last,
        )  # fmt: skip
    assert y.tobytes() == whole.tobytes()


def test_infinities_nan_and_signed_zeros_go_through_as_ieee_says():
    weight = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], np.float32)
    found = product(np.array([[np.inf, 2.0], [-0.0, -0.0]], np.float32), weight, np.full(3, -0.0, np.float32))
    assert np.isposinf(found[0, 0])
    assert np.isneginf(found[0, 1])
    assert np.isnan(found[0, 2])
    assert np.signbit(found[1]).tolist() == [True, False, True]


def test_subnormal_results_are_kept():
    tiny = np.full((1, 1), 1e-30, np.float32)
    found = product(tiny, np.full((1, 1), 1e-10, np.float32), np.zeros(1, np.float32))
    assert found[0, 0] == np.float32(1e-30) * np.float32(1e-10) > 0
