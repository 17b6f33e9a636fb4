"""float32 arithmetic as docs/spec/arithmetic.md defines it: fused steps, sums over lanes, exp and erf.

Arrays are float32; "..." stands for any leading dimensions.
"""

from __future__ import annotations

import numpy as np

F32 = np.float32
LANES = 16

LOG2_E, ROUNDER = F32(1.4426950408889634), F32(12582912.0)
LN2_HIGH, LN2_LOW = F32(0.693145751953125), F32(1.42860677e-06)
EXP_LOWEST, EXP_HIGHEST = F32(-87.33654), F32(88.37626)
EXP = (1.37805939e-3, 8.37312452e-3, 4.16695364e-2, 1.66664720e-1, 4.99999851e-1, 1.0, 1.0)
ERF_SPLIT = F32(0.921875)
ERF_NEAR = (-5.96761703e-4, 4.99119423e-3, -2.67681349e-2, 1.12819925e-1, -3.76125336e-1, 1.28379166e-1)
ERF_FAR_ODD = (-1.72853470e-5, 3.83197126e-4)
ERF_FAR_EVEN = (-3.88396438e-3, 2.42546219e-2)
ERF_FAR_LOW = (-1.06777877e-1, -6.34846687e-1, -1.28717512e-1)


def fma(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return x * y + z rounded once to float32.

    The product of two float32 is exact in float64, and the sum with z is rounded to float64. A second
    rounding to float32 can differ from a single one only where the float64 lies half-way between two
    float32, or where the float32 is subnormal. There the sum is rounded to odd first: if it is not exact, its
    last bit is set by moving towards the error. What is rounded to odd with at least two more bits rounds to
    the same float32 as the exact sum (Boldo and Melquiond 2008, doi.org/10.1109/TC.2007.70819).
    """
    product = np.multiply(x, y, dtype=np.float64)
    total = product + z
    doubtful = (total.view(np.int64) & 0x1FFFFFFF) == 0x10000000
    doubtful |= np.abs(total) < 2.0**-125
    if doubtful.any():
        total = np.where(doubtful, _to_odd(product, np.broadcast_to(z, total.shape), total), total)
    with np.errstate(over="ignore"):  # beyond the largest float32 lies infinity, as in hardware
        return total.astype(F32)


def _to_odd(x: np.ndarray, y: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return x + y, of which `total` is the nearest float64, rounded to odd."""
    back = total - x
    error = (x - (total - back)) + (y - back)
    bits = total.view(np.int64)
    even = (error != 0) & ((bits & 1) == 0) & np.isfinite(total)
    towards = np.where((error > 0) == (total > 0), bits + 1, bits - 1)
    return np.where(even, towards, bits).view(np.float64)


def product(x: np.ndarray, weight: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Return the chains (M, N) of x (M, K) and weight (N, K), k ascending, from start (M, N) or (N,)."""
    result = np.broadcast_to(start, (len(x), len(weight))).astype(F32)
    columns = np.ascontiguousarray(weight.T)
    for k in range(columns.shape[0]):
        result = fma(x[:, k : k + 1], columns[k], result)
    return result


def lane_sum(terms: np.ndarray) -> np.ndarray:
    """Return the sums (...) of terms (..., n): sixteen lane sums, folded by halves."""
    padding = -terms.shape[-1] % LANES
    padded = np.concatenate([terms, np.zeros((*terms.shape[:-1], padding), F32)], axis=-1)
    lanes = np.zeros((*terms.shape[:-1], LANES), F32)
    for first in range(0, padded.shape[-1], LANES):
        lanes = lanes + padded[..., first : first + LANES]
    while lanes.shape[-1] > 1:
        half = lanes.shape[-1] // 2
        lanes = lanes[..., :half] + lanes[..., half:]
    return lanes[..., 0]


def _polynomial(x: np.ndarray, coefficients: tuple[float, ...]) -> np.ndarray:
    result = np.full_like(x, F32(coefficients[0]))
    for coefficient in coefficients[1:]:
        result = fma(result, x, np.full_like(x, F32(coefficient)))
    return result


def exp(x: np.ndarray) -> np.ndarray:
    """Return e**x by the stated polynomial; 0 below EXP_LOWEST."""
    inside = np.where(x > EXP_HIGHEST, EXP_HIGHEST, np.where(x < EXP_LOWEST, EXP_LOWEST, x))
    shifted = fma(inside, np.full_like(x, LOG2_E), np.full_like(x, ROUNDER))
    k = shifted - ROUNDER
    rest = fma(k, np.full_like(x, -LN2_LOW), fma(k, np.full_like(x, -LN2_HIGH), inside))
    exponent = np.left_shift(shifted.view(np.uint32), np.uint32(23))
    value = (_polynomial(rest, EXP).view(np.uint32) + exponent).view(F32)
    return np.where(np.isnan(x), x, np.where(x < EXP_LOWEST, F32(0), value))


def erf(x: np.ndarray) -> np.ndarray:
    """Return the error function by the stated polynomials."""
    size, square = np.abs(x), x * x
    near = fma(_polynomial(square, ERF_NEAR), x, x)
    exponent = fma(_polynomial(size, ERF_FAR_ODD), square, _polynomial(size, ERF_FAR_EVEN))
    for coefficient in ERF_FAR_LOW:
        exponent = fma(exponent, size, np.full_like(x, F32(coefficient)))
    exponent = fma(exponent, size, -size)
    return np.where(size > ERF_SPLIT, np.copysign(F32(1) - exp(exponent), x), near)


def gelu(x: np.ndarray) -> np.ndarray:
    """Return x / 2 * (1 + erf(x / sqrt 2))."""
    return fma(half := x * F32(0.5), erf(x * F32(0.7071067811865476)), half)


def silu(x: np.ndarray) -> np.ndarray:
    """Return x / (1 + exp(-x))."""
    return x / (F32(1) + exp(-x))
