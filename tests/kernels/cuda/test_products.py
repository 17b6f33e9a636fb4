"""Every tile of the GPU's products gives the bits of the CPU's products, whatever the sizes."""

from __future__ import annotations

import numpy as np
import pytest

from niels_gpt.kernels.cuda import model as cuda_model
from niels_gpt.kernels.cuda.driver import PRODUCTS, WEIGHTS
from niels_gpt.kernels.cuda.model import TILES, Input, Part, launch_product
from niels_gpt.kernels.gpt import activate, norm
from niels_gpt.kernels.gpt_layout import SILU
from niels_gpt.kernels.jit import compiled
from niels_gpt.kernels.linear import BF16, F16, FLOAT32, INT8, block_floats, linear
from niels_gpt.kernels.matrix_packing import pack, pack_halves, pack_int8
from niels_gpt.kernels.processor import padded
from tests.kernels.cuda.shim import Edit, HostDriver, needs_compiler

pytestmark = needs_compiler

KINDS = {"float32": FLOAT32, "int8": INT8, "bf16": BF16, "f16": F16}
ROWS = {
    "one": (1,), "few": (2, 7), "some_16": (9, 17), "some_32": (33,), "some_64": (65,), "wide_64": (9, 65),
    "many": (129,),
}  # fmt: skip
"""Numbers of rows at which each tile is tried."""


@compiled
def _norm(x, scale, shift, y, count):
    norm(False, np.float32(1e-5), scale, shift, x, y, count)


@compiled
def _gate(gate, up, count):
    activate(SILU, gate, count)


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

    def gpu(self, driver: HostDriver) -> np.ndarray:
        part = self.part(driver)
        launch_product(driver, self.form, self.rows(driver), [part], self.M)
        return self.result(driver, part)

    def rows(self, driver: HostDriver) -> Input:
        return Input(uploaded(driver, self.x), self.x_row, self.K)

    def part(self, driver: HostDriver) -> Part:
        """The product in place: its result replaces its start values."""
        start = uploaded(driver, self.start)
        return Part(uploaded(driver, self.w), start, self.y_row, start, self.y_row, self.N)

    def result(self, driver: HostDriver, part: Part) -> np.ndarray:
        y = np.zeros((self.M, self.y_row), np.float32)
        driver.download(part.y, y)
        return y[:, : self.N]


def uploaded(driver: HostDriver, array: np.ndarray) -> int:
    address = driver.allocate(array.nbytes)
    driver.upload(address, np.ascontiguousarray(array))
    return address


@pytest.fixture(params=PRODUCTS)
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A tile that is used for every product of more than eight rows."""
    if request.param in TILES:
        monkeypatch.setattr(cuda_model, "TILES", {request.param: TILES[request.param]})
    return request.param


def sizes_of(tile: str) -> list[tuple[int, int, int]]:
    """Rows, columns and depths at which a tile has edges on all sides."""
    others = ((37, 48), (130, 16)) if tile == "many" else ((37, 29), (130, 64), (5, 96))
    return [(M, N, K) for M in ROWS[tile] for N, K in others]


@pytest.mark.parametrize("form", WEIGHTS)
def test_every_tile_has_the_bits_of_the_cpu(tile: str, form: str) -> None:
    for M, N, K in sizes_of(tile):
        product, driver = Product(M, N, K, form), HostDriver(descending=M % 2 == 0, early=N > 37)
        assert product.gpu(driver).tobytes() == product.cpu().tobytes(), (M, N, K)
        assert driver.launches == [f"{tile}_{form}"]


@pytest.mark.parametrize("form", ["float32", "int8"])
def test_matrices_that_share_a_launch_have_the_bits_of_their_own(tile: str, form: str) -> None:
    M, K = ROWS[tile][-1], 48
    products = [Product(M, N, K, form) for N in (70, 5, 37)]
    driver = HostDriver()
    parts = [product.part(driver) for product in products]
    bias = np.linspace(-1, 1, products[2].y_row, dtype=np.float32)
    parts[2] = parts[2]._replace(bias=uploaded(driver, bias))
    for product in products[1:]:
        product.x = products[0].x
    launch_product(driver, form, products[0].rows(driver), parts, M)
    products[2].start += bias
    for product, part in zip(products, parts, strict=True):
        assert product.result(driver, part).tobytes() == product.cpu().tobytes()


@pytest.mark.parametrize("form", ["float32", "bf16"])
def test_an_activation_in_the_same_launch_has_the_bits_of_one_after_it(tile: str, form: str) -> None:
    M, N, K = ROWS[tile][-1], 37, 48
    up, gate, driver = Product(M, N, K, form), Product(M, N, K, form), HostDriver()
    gate.start[:, 1:N:2] *= 3
    parts = [up.part(driver), gate.part(driver)]
    launch_product(driver, form, up.rows(driver), parts, M, gated=True, act=SILU)
    gates = np.ascontiguousarray(np.hstack([gate.cpu(), np.zeros((M, 16), np.float32)]))
    for row in gates:
        _gate(row.ctypes.data, 0, N)
    expected = gates[:, :N] * up.cpu()
    assert up.result(driver, parts[0]).tobytes() == expected.tobytes()
    assert gate.result(driver, parts[1]).tobytes() == gate.start[:, :N].tobytes(), "it is not stored"
    launch_product(driver, form, gate.rows(driver), [parts[1]], M, act=SILU)
    assert gate.result(driver, parts[1]).tobytes() == gates[:, :N].tobytes()


@pytest.mark.parametrize("rows", [1, 5])
def test_rows_that_a_product_norms_itself_have_the_bits_of_a_norm_before_it(rows: int) -> None:
    product, driver = Product(rows, 37, 48, "float32"), HostDriver(descending=True)
    scale, shift = np.linspace(-1, 2, 64, dtype=np.float32), np.linspace(1, 2, 64, dtype=np.float32)
    chosen = np.arange(rows, dtype=np.int32)[::-1]
    normed = product.x.copy()
    for to, from_ in enumerate(chosen):
        places = [each.ctypes.data for each in (product.x[from_], scale, shift, normed[to])]
        _norm(*places, product.K)
    x, part = product.rows(driver), product.part(driver)
    x = x._replace(
        chosen=uploaded(driver, chosen),
        scale=uploaded(driver, scale),
        shift=uploaded(driver, shift),
        eps=1e-5,
    )
    launch_product(driver, "float32", x, [part], rows)
    product.x = normed
    assert product.result(driver, part).tobytes() == product.cpu().tobytes()


CONTROLS: dict[str, Edit] = {
    "multiplied padding": (
        "linear.cu",
        "    for (int k = 0; k < last; k++) {\n      float w = W::widen(column[k * LANES]);",
        "    for (int k = 0; k < DEPTH; k++) {\n      float w = W::widen(column[k * LANES]);",
    ),
    "a copy that is not waited for": (
        "linear.cu",
        "    wait_for_copies<STAGES - 2>();\n    __syncwarp();",
        "    __syncwarp();",
    ),
    "a portion that is overwritten too early": (
        "linear.cu",
        "    __syncwarp();\n    fetch(p + STAGES - 1);",
        "    __syncwarp();\n    fetch(p + STAGES);",
    ),
}


@pytest.mark.parametrize("control", CONTROLS)
def test_a_changed_product_is_noticed(control: str) -> None:
    product = Product(1, 37, 349, "float32")
    driver = HostDriver(edit=CONTROLS[control], early=control.startswith("a portion"))
    assert product.gpu(driver).tobytes() != product.cpu().tobytes()
