from __future__ import annotations

import math

import numpy as np
import pytest

from niels_gpt.kernels import math as kernel_math
from niels_gpt.kernels.jit import compiled
from niels_gpt.kernels.simd_ir import ADDRESS, COUNT, Emitter, Value, kernel


def _over_rows(function):
    def emit(e: Emitter, x: Value, y: Value, count: Value) -> None:
        with e.vectors(count) as i:
            e.store(function(e, e.load(x, i)), y, i)

    emit.__name__ = f"row_{function.__name__}"
    return kernel(emit, [ADDRESS, ADDRESS, COUNT])


row_exp, row_erf = _over_rows(kernel_math.exp), _over_rows(kernel_math.erf)
row_gelu, row_silu = _over_rows(kernel_math.gelu), _over_rows(kernel_math.silu)


@compiled
def run_exp(x, y):
    row_exp(x.ctypes.data, y.ctypes.data, x.size)


@compiled
def run_erf(x, y):
    row_erf(x.ctypes.data, y.ctypes.data, x.size)


@compiled
def run_gelu(x, y):
    row_gelu(x.ctypes.data, y.ctypes.data, x.size)


@compiled
def run_silu(x, y):
    row_silu(x.ctypes.data, y.ctypes.data, x.size)


def values(run, x: np.ndarray) -> np.ndarray:
    y = np.empty_like(x)
    run(x, y)
    return y


def dense(low: float, high: float) -> np.ndarray:
    return np.linspace(low, high, 1 << 18).astype(np.float32)


def ulps(found: np.ndarray, exact: np.ndarray) -> float:
    return float(np.max(np.abs(found - exact) / np.spacing(np.abs(exact).astype(np.float32))))


exact_erf = np.vectorize(math.erf, otypes=[np.float64])


def test_exp_is_within_one_ulp():
    x = dense(-87.3, 88.3)
    assert ulps(values(run_exp, x), np.exp(x.astype(np.float64))) <= 1.0


def test_erf_is_within_one_ulp():
    x = dense(-5.0, 5.0)
    assert ulps(values(run_erf, x), exact_erf(x.astype(np.float64))) <= 1.0


def test_silu_is_within_three_ulp():
    x = dense(-20.0, 20.0).astype(np.float64)
    assert ulps(values(run_silu, x.astype(np.float32)), x / (1 + np.exp(-x))) <= 3.0


def test_gelu_is_within_4e_7():
    x = dense(-6.0, 6.0)
    exact = x.astype(np.float64) / 2 * (1 + exact_erf(x.astype(np.float64) / math.sqrt(2)))
    assert np.max(np.abs(values(run_gelu, x) - exact)) <= 4e-7


def test_the_bounds_can_fail():
    x = dense(-5.0, 5.0)
    spoiled = values(run_erf, x) * np.float32(1 + 1e-6)
    assert ulps(spoiled, exact_erf(x.astype(np.float64))) > 1.0


@pytest.mark.parametrize(
    ("run", "given", "expected"),
    [
        (run_exp, [0.0, -0.0, 1e-40, -1e-40, -np.inf, -90.0], [1, 1, 1, 1, 0, 0]),
        (run_erf, [0.0, -0.0, 1e-40, np.inf, -np.inf, 9.0], [0.0, -0.0, 1.12838e-40, 1, -1, 1]),
        (run_silu, [0.0, -0.0, 1e-40, np.inf, 90.0, -100.0], [0.0, -0.0, 5e-41, np.inf, 90, 0]),
    ],
)
def test_special_values_are_what_the_functions_have_there(run, given, expected):
    found = values(run, np.array(given + [0.0] * 10, np.float32))[: len(given)]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-35)
    assert np.signbit(found).tolist()[:3] == np.signbit(np.array(expected, np.float32)).tolist()[:3]


@pytest.mark.parametrize("run", [run_exp, run_erf, run_gelu, run_silu])
def test_nan_stays_nan(run):
    assert np.isnan(values(run, np.full(16, np.nan, np.float32))).all()
