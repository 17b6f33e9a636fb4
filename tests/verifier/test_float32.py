"""The verifier's fused multiply-add is exact, and its functions are those of the stated vectors."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from verifier.float32 import F32, erf, exp, fma, lane_sum

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def rounded(value: Fraction) -> np.float32:
    """Round an exact number to float32, ties to even."""
    if value == 0:
        return F32(0)
    size = abs(value)
    exponent = max(size.numerator.bit_length() - size.denominator.bit_length(), -126)
    while Fraction(2) ** exponent > size and exponent > -126:
        exponent -= 1
    while Fraction(2) ** (exponent + 1) <= size:
        exponent += 1
    unit = Fraction(2) ** (exponent - 23)
    whole = round(size / unit)  # Python rounds a Fraction half to even
    if whole * unit >= Fraction(2) ** 128:
        return F32(math.copysign(math.inf, value))
    return F32(math.copysign(float(whole * unit), value))


def one(x: float, y: float, z: float) -> np.float32:
    with np.errstate(over="ignore"):
        return fma(np.array([x], F32), np.array([y], F32), np.array([z], F32))[0]


@settings(max_examples=300, deadline=None)
@given(FLOATS, FLOATS, FLOATS)
def test_a_fused_step_is_the_exact_sum_rounded_once(x, y, z):
    exact = Fraction(x) * Fraction(y) + Fraction(z)
    found = one(x, y, z)
    assert found == rounded(exact)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**23 - 1), st.integers(-60, 60), st.sampled_from([-1, 1]), st.integers(24, 90))
def test_it_is_exact_just_beside_the_middle_of_two_neighbours(mantissa, exponent, sign, below):
    # z + half a unit + a term far below it: two roundings in a row would lose the term.
    z = float(F32(math.ldexp(1 + mantissa / 2**23, exponent)))
    half = math.ldexp(1.0, exponent - 24)
    x, y = half * (1 + 2.0**-23), 1.0 + sign * 2.0 ** -min(below, 23)
    assert one(x, y, z) == rounded(Fraction(x) * Fraction(float(F32(y))) + Fraction(z))


def test_two_roundings_would_differ():
    # The control: what the correction is for.
    rng = np.random.default_rng(0)
    z = (1 + rng.integers(0, 2**23, 20_000) / 2**23).astype(F32)
    x, y = np.full_like(z, 2.0**-24 * (1 + 2.0**-23)), np.full_like(z, 1 - 2.0**-23)
    twice = (x.astype(np.float64) * y + z).astype(F32)
    assert (fma(x, y, z) != twice).sum() > 1_000
    for at in (0, 1, 2):
        assert fma(x, y, z)[at] == rounded(
            Fraction(float(x[at])) * Fraction(float(y[at])) + Fraction(float(z[at]))
        )


def test_exp_and_erf_are_near_the_functions_they_stand_for():
    x = np.linspace(-87, 88, 4_001).astype(F32)
    assert np.allclose(exp(x), np.exp(x.astype(np.float64)), rtol=2e-7, atol=0)
    y = np.linspace(-4, 4, 801).astype(F32)
    assert np.allclose(erf(y), [math.erf(each) for each in y], rtol=2e-7, atol=1e-8)


def test_a_sum_over_lanes_is_the_stated_tree():
    terms = np.arange(1, 21, dtype=F32) * F32(0.1)
    lanes = [F32(terms[i] + terms[i + 16]) if i < 4 else terms[i] for i in range(16)]
    while len(lanes) > 1:
        half = len(lanes) // 2
        lanes = [F32(lanes[i] + lanes[i + half]) for i in range(half)]
    assert lane_sum(terms) == lanes[0]
