"""Every tile of the GPU's products gives the bits of the CPU's products, whatever the sizes."""

from __future__ import annotations

import numpy as np
import pytest

from niels_gpt.kernels.cuda.driver import PRODUCTS, WEIGHTS
from niels_gpt.kernels.jit import compiled
from niels_gpt.kernels.linear import (
    BF16,
    F16,
    FLOAT32,
    INT8,
    block_floats,
    linear,
    pack,
    pack_halves,
    pack_int8,
    padded,
)
from tests.kernels.cuda.shim import Edit, HostDriver, needs_compiler

pytestmark = needs_compiler

KINDS = {"float32": FLOAT32, "int8": INT8, "bf16": BF16, "f16": F16}
ROWS = {"few_1": (1,), "few_8": (2, 8), "some_32": (9, 33), "some_64": (65,), "many": (129,)}
TILE = {"few_1": (32, 1), "few_8": (32, 8), "some_32": (32, 32), "some_64": (32, 64), "many": (128, 128)}


@compiled
def _stride(kind, depth):
    return block_floats(kind, depth)


class Product:
    """Random rows, weights and start values, signed zeros among them."""

    def __init__(self, M: int, N: int, K: int, form: str) -> None:
        rng = np.random.default_rng(M + N + K)
        self.M, self.N, self.K, self.form, self.x_row, self.y_row = M, N, K, form, padded(K) + 16, padded(N)
        self.x = np.full((M + 1, self.x_row), np.nan, np.float32)
        self.x[:M, :K] = rng.standard_normal((M, K))
        self.x[0, :K] = -0.0  # whose products are zeros, of either sign
        weight = rng.standard_normal((N, K)).astype(np.float32)
        weight[::2] = np.abs(weight[::2])
        if form in {"bf16", "f16"}:
            words = (
                weight.astype("<f2").view("<u2")
                if form == "f16"
                else (weight.view("<u4") >> 16).astype("<u2")
            )
            self.w = pack_halves(words)
        else:
            self.w = pack(weight) if form == "float32" else pack_int8(weight)
        self.start = np.zeros((M, self.y_row), np.float32)
        self.start[:, :N] = rng.standard_normal((M, N))
        self.start[:, ::2] = -0.0

    def cpu(self) -> np.ndarray:
        y = self.start.copy()
        at = [array.ctypes.data for array in (self.x, self.w, y)]
        kind = KINDS[self.form]
        linear(
            kind, at[0], self.x_row, at[1], _stride(kind, self.K), self.K, at[2], self.y_row, at[2],
            self.y_row, self.M, 0, self.y_row // 16,
        )  # fmt: skip
        return y[:, : self.N]

    def gpu(self, tile: str, driver: HostDriver) -> np.ndarray:
        at = []
        for array in (self.x, self.w, self.start):
            at.append(driver.allocate(array.nbytes))
            driver.upload(at[-1], np.ascontiguousarray(array))
        columns, rows = TILE[tile]
        i32 = np.int32
        driver.launch(
            f"{tile}_{self.form}", (-(-self.N // columns), -(-self.M // rows)), 256,
            (at[0], i32(self.x_row), at[1], at[2], i32(self.y_row), at[2], i32(self.y_row), i32(self.M),
             i32(self.N), i32(self.K)),
            shared=0 if tile == "many" else driver.shared_bytes,
        )  # fmt: skip
        y = np.zeros((self.M, self.y_row), np.float32)
        driver.download(at[2], y)
        return y[:, : self.N]


@pytest.mark.parametrize("form", WEIGHTS)
@pytest.mark.parametrize("tile", PRODUCTS)
def test_every_tile_has_the_bits_of_the_cpu(tile: str, form: str) -> None:
    for M in ROWS[tile]:
        for N, K in ((37, 48), (130, 16)) if tile == "many" else ((37, 29), (70, 64), (5, 96)):
            product = Product(M, N, K, form)
            assert product.gpu(tile, HostDriver()).tobytes() == product.cpu().tobytes(), (M, N, K)


def test_multiplied_padding_is_noticed() -> None:
    edit: Edit = (
        "linear.cu",
        "for (int k = 0; k < last; k++) chain = fused(own[k]",
        "for (int k = 0; k < DEPTH; k++) chain = fused(own[k]",
    )
    product = Product(1, 37, 29, "float32")
    assert product.gpu("few_1", HostDriver(edit=edit)).tobytes() != product.cpu().tobytes()
