"""Activations and caps of the GPU's kernels have the bits of the CPU's over a dense grid."""

from __future__ import annotations

import numpy as np
import pytest

from niels_gpt.kernels.gpt import activate
from niels_gpt.kernels.gpt_layout import GELU, GELU_TANH, RELU, RELU_SQUARED, SILU
from niels_gpt.kernels.jit import compiled
from niels_gpt.kernels.row_ops import cap_row
from tests.kernels.cuda.shim import HostDriver, needs_compiler

pytestmark = needs_compiler

# Numbers of every size and both signs, subnormal ones, zeros, infinities.
GRID = np.arange(0, 2**32, 65521, dtype=np.uint64).astype(np.uint32).view(np.float32)
GRID = np.ascontiguousarray(
    np.concatenate([GRID[~np.isnan(GRID)], np.linspace(-9, 9, 20_001, dtype=np.float32)])
)


@compiled
def _activate(which, x, count):
    activate(which, x, count)


@compiled
def _cap(x, count, most):
    cap_row(x, count, most)


def on_gpu(kernel: str, *numbers: np.int32 | np.float32) -> np.ndarray:
    driver, out = HostDriver(), np.zeros_like(GRID)
    place = driver.allocate(GRID.nbytes)
    driver.upload(place, GRID)
    gate = (0,) if kernel == "activate" else ()
    size = np.int32(GRID.size)
    driver.launch(kernel, (1, -(-GRID.size // 256)), 256, (place, *gate, size, *numbers, size))
    driver.download(place, out)
    return out


def on_cpu() -> np.ndarray:
    room = np.zeros(GRID.size + 16, np.float32)
    room[: GRID.size] = GRID
    return room


@pytest.mark.parametrize("which", [GELU, GELU_TANH, SILU, RELU, RELU_SQUARED])
def test_activations(which: int) -> None:
    expected = on_cpu()
    _activate(which, expected.ctypes.data, GRID.size)
    found = on_gpu("activate", np.int32(which))
    same = found.view(np.uint32) == expected[: GRID.size].view(np.uint32)
    assert (same | (np.isnan(found) & np.isnan(expected[: GRID.size]))).all()


def test_caps() -> None:
    expected = on_cpu()
    _cap(expected.ctypes.data, GRID.size, np.float32(1.7))
    found = on_gpu("finish_logits", np.float32(1), np.float32(1.7))
    same = found.view(np.uint32) == expected[: GRID.size].view(np.uint32)
    assert (same | (np.isnan(found) & np.isnan(expected[: GRID.size]))).all()
