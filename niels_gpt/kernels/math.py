"""Compute exp, erf and related functions in fused multiply-adds, with the same bits on every processor.

Each function is a fixed sequence of IEEE 754 operations, so its error is a property of the formula alone; the
bounds in the docstrings are checked over dense float32 grids by the tests. exp: Cody and Waite's reduction by
ln 2 in two parts, then a polynomial of degree 6. erf: an odd polynomial near 0, and beyond it 1 -
exp(-p(|x|)).
"""

from __future__ import annotations

from niels_gpt.kernels.simd_ir import Emitter, Value

LOG2_E = 1.4426950408889634
# ln 2 in two parts: the first ends in nine zero bits, so that k * LN2_HIGH is exact for every k that occurs.
LN2_HIGH, LN2_LOW = 0.693145751953125, 1.42860677e-06
# Adding 1.5 * 2**23 rounds a float to the nearest integer and leaves that integer in the low bits.
ROUNDER = 12582912.0
EXP = (1.37805939e-3, 8.37312452e-3, 4.16695364e-2, 1.66664720e-1, 4.99999851e-1, 1.0, 1.0)
EXP_LOWEST, EXP_HIGHEST = -87.33654, 88.37626

TANH_SPLIT = 0.625
TANH_NEAR = (-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1)

ERF_SPLIT = 0.921875
ERF_NEAR = (-5.96761703e-4, 4.99119423e-3, -2.67681349e-2, 1.12819925e-1, -3.76125336e-1, 1.28379166e-1)
ERF_FAR_ODD = (-1.72853470e-5, 3.83197126e-4)
ERF_FAR_EVEN = (-3.88396438e-3, 2.42546219e-2)
ERF_FAR_LOW = (-1.06777877e-1, -6.34846687e-1, -1.28717512e-1)


def exp(e: Emitter, x: Value) -> Value:
    """Return e**x within 1 ulp: 0 below -87.34 (else subnormal), e**88.37 above 88.37, NaN for NaN."""
    lowest, highest = e.real(EXP_LOWEST), e.real(EXP_HIGHEST)
    inside = e.where(e.less(highest, x), highest, e.where(e.less(x, lowest), lowest, x))
    shifted = e.fma(inside, e.real(LOG2_E), e.real(ROUNDER))
    k = e.sub(shifted, e.real(ROUNDER))
    rest = e.fma(k, e.real(-LN2_LOW), e.fma(k, e.real(-LN2_HIGH), inside))
    exponent = e.b.shl(e.bits(shifted), e.whole(23))
    scaled = e.from_bits(e.b.add(e.bits(e.polynomial(rest, EXP)), exponent))
    value = e.where(e.less(x, lowest), e.real(0.0), scaled)
    return e.where(e.is_nan(x), x, value)


def erf(e: Emitter, x: Value) -> Value:
    """Return the error function within 1 ulp."""
    size, square = e.call("fabs", x), e.mul(x, x)
    near = e.fma(e.polynomial(square, ERF_NEAR), x, x)
    exponent = e.fma(e.polynomial(size, ERF_FAR_ODD), square, e.polynomial(size, ERF_FAR_EVEN))
    for coefficient in ERF_FAR_LOW:
        exponent = e.fma(exponent, size, e.real(coefficient))
    exponent = e.fma(exponent, size, e.b.fneg(size))
    far = e.call("copysign", e.sub(e.real(1.0), exp(e, exponent)), x)
    return e.where(e.less(e.real(ERF_SPLIT), size), far, near)


def tanh(e: Emitter, x: Value) -> Value:
    """Return the hyperbolic tangent within 2 ulp."""
    size, square = e.call("fabs", x), e.mul(x, x)
    near = e.fma(e.mul(e.polynomial(square, TANH_NEAR), square), x, x)
    power = exp(e, e.add(size, size))
    far = e.call("copysign", e.sub(e.real(1.0), e.div(e.real(2.0), e.add(power, e.real(1.0)))), x)
    return e.where(e.less(e.real(TANH_SPLIT), size), far, near)


def gelu_tanh(e: Emitter, x: Value) -> Value:
    """x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x**3))), as fma(x / 2, tanh, x / 2)."""
    half = e.mul(x, e.real(0.5))
    inner = e.mul(e.fma(e.mul(e.mul(x, x), e.real(0.044715)), x, x), e.real(0.7978845608028654))
    return e.fma(half, tanh(e, inner), half)


def gelu(e: Emitter, x: Value) -> Value:
    """x / 2 * (1 + erf(x / sqrt 2)), the exact form, as fma(x / 2, erf, x / 2); within 4e-7 on [-6, 6]."""
    half = e.mul(x, e.real(0.5))
    return e.fma(half, erf(e, e.mul(x, e.real(0.7071067811865476))), half)


def silu(e: Emitter, x: Value) -> Value:
    """Return x / (1 + exp(-x)) within 3 ulp."""
    return e.div(x, e.add(e.real(1.0), exp(e, e.b.fneg(x))))
