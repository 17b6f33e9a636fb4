"""Integer products against their definition in numpy, and rows and columns in every company."""

from __future__ import annotations

import numpy as np
import pytest

from niels_gpt.kernels.integer import multiply
from niels_gpt.kernels.integer_layout import GROUP, record_bytes
from niels_gpt.kernels.integer_packing import (
    Quantised,
    pack_q4,
    pack_q8,
    quantise_q4,
    quantise_q8,
    read_blocks,
)
from niels_gpt.kernels.integer_rows import LARGEST, quantise_row
from niels_gpt.kernels.integer_weights import Q4, Q8, dequantise_column
from niels_gpt.kernels.jit import compiled
from niels_gpt.kernels.processor import aligned, padded
from niels_gpt.model.weights import Weight, dequantise

KINDS = {"q8": (Q8, quantise_q8, pack_q8), "q4": (Q4, quantise_q4, pack_q4)}


@compiled
def _records(x, x_row, out, out_row, depth, rows):  # noqa: PLR0917
    for r in range(rows):
        quantise_row(x + r * x_row, out + r * out_row, depth)


@compiled
def _column(kind, w, depth, column, y):
    dequantise_column(kind, w, depth, column, y)


def address(array: np.ndarray) -> int:
    return array.ctypes.data


def product(
    name: str, x: np.ndarray, packed: np.ndarray, start: np.ndarray, cuts: tuple[int, ...] = ()
) -> np.ndarray:
    (M, K), blocks = x.shape, len(packed)
    row, record = 16 * blocks, record_bytes(K)
    y, records = aligned(M * row).reshape(M, row), aligned(M * record // 4)
    y[:] = np.nan
    x = np.ascontiguousarray(x, np.float32)
    _records(address(x), 4 * K, address(records), record, K, M)
    first = aligned(M * row).reshape(M, row)
    first[:, : start.shape[1]] = start
    weights = aligned(packed.size // 4)
    weights[:] = packed.reshape(-1).view(np.float32)
    for begin, end in zip((0, *cuts), (*cuts, blocks), strict=True):
        multiply(
            KINDS[name][0], address(records), record, K, address(weights), address(first), row, address(y),
            row, M, begin, end,
        )  # fmt: skip
    return y[:, : start.shape[1]].copy()


def fma(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """The fused multiply-add of float32s, correctly rounded: by rounding to odd in float64."""
    x, y, z = np.broadcast_arrays(np.float32(x), np.float32(y), np.float32(z))
    exact, z = x.astype(np.float64) * y.astype(np.float64), z.astype(np.float64)
    total = exact + z
    part = total - exact
    error = (exact - (total - part)) + (z - part)
    bits = np.ascontiguousarray(total).view(np.int64).copy()
    odd = (error != 0) & np.isfinite(total) & (bits & 1 == 0)
    bits = np.where(odd, bits + np.where((error > 0) == (total > 0), 1, -1), bits)
    return bits.view(np.float64).astype(np.float32)


def integers(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """q (M, K), dx (M, G) and sx (M, G) by the definition."""
    groups = x.reshape(len(x), -1, GROUP)
    amax = np.abs(groups).max(2)
    finite = np.isfinite(groups).all(2)
    usable = finite & (amax >= np.float32(2.0**-100))
    size = np.where(usable, amax, np.float32(LARGEST))
    dx = np.where(usable, size / np.float32(LARGEST), np.where(finite, np.float32(0), np.float32(np.nan)))
    inverse = np.where(usable, np.float32(LARGEST) / size, np.float32(0)).astype(np.float64)
    clean = np.where(usable[..., None], groups, np.float32(0)).astype(np.float64)
    q = np.rint(clean * inverse[..., None]).astype(np.int64)  # the product is exact in float64
    dx = dx.astype(np.float32)
    return q.reshape(x.shape), dx, dx * q.sum(2).astype(np.float32)


def expected(x: np.ndarray, weight: Quantised, start: np.ndarray, *, backwards: bool = False) -> np.ndarray:
    q, dx, sx = integers(x)
    acc = start.astype(np.float32)
    groups = range(weight.scale.shape[1])
    for g in reversed(groups) if backwards else groups:
        part = slice(g * GROUP, (g + 1) * GROUP)
        whole = (q[:, part] @ weight.q[:, part].astype(np.int64).T).astype(np.float32)
        acc = fma(dx[:, g, None] * weight.scale[:, g].astype(np.float32), whole, acc)
        if weight.low is not None:
            acc = fma(weight.low[:, g].astype(np.float32), sx[:, g, None], acc)
    return acc


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether all bits are equal; any NaN counts as one."""
    return bool(((a.view(np.uint32) == b.view(np.uint32)) | (np.isnan(a) & np.isnan(b))).all())


def normal(seed: int, *shape: int, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32) * np.float32(scale)


def odd_rows() -> np.ndarray:
    x = normal(9, 12, 64)
    x[0], x[1, :32], x[2] = 0, -0.0, 1e-42
    x[3] *= np.float32(1e-37)
    x[4] *= np.float32(2.0**-99.5)
    x[5] = (np.arange(64) % 32 - 15.5) * (LARGEST / 15.5)  # ties
    x[6, 3], x[7, 40], x[8, 9] = np.inf, np.nan, -np.inf
    x[9] *= np.float32(1e36)
    return x


def every_byte() -> np.ndarray:
    """Rows that are their own integers: bytes of -128 and 127, next to the largest in each group."""
    x = np.random.default_rng(14).choice([-32639, 32639, -128, 127, 128, -129, 32384, -32384], (12, 64))
    x[:, ::32] = LARGEST
    return x.astype(np.float32)


CASES = {
    "all bytes at their ends": (
        every_byte(),
        np.where(np.arange(2048).reshape(32, 64) % 3, 1.0, -1.0).astype(np.float32),
    ),
    "plain": (normal(1, 33, 96), normal(2, 40, 96, scale=0.05)),
    "deep and wide": (normal(3, 9, 1536, scale=30), normal(4, 72, 1536, scale=0.05)),
    "all at the ends": (
        np.random.default_rng(5).choice([-1.0, 1.0], (12, 64)).astype(np.float32),
        np.random.default_rng(6).choice([-1.0, 1.0], (32, 64)).astype(np.float32),
    ),
    "odd numbers": (odd_rows(), normal(7, 32, 64, scale=1e-6)),
    "odd numbers, large weights": (odd_rows(), normal(8, 17, 64, scale=100)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", KINDS)
def test_a_product_is_what_the_definition_says(name: str, case: str) -> None:
    (x, w), (_, quantise, pack) = CASES[case], KINDS[name]
    start = normal(10, len(x), len(w))
    start[:, 0], start[:, 1] = -0.0, 0.0
    weight = quantise(w)
    with np.errstate(all="ignore"):
        wanted = expected(x, weight, start)
    whole = product(name, x, pack(weight), start)
    assert same(whole, wanted)
    for rows in range(1, len(x), 4):
        assert same(product(name, x[:rows], pack(weight), start[:rows]), whole[:rows])
    assert same(product(name, x, pack(weight), start, cuts=(1,)), whole)


@pytest.mark.parametrize("name", KINDS)
def test_another_order_of_the_groups_has_other_bits(name: str) -> None:
    (x, w), (_, quantise, _) = CASES["plain"], KINDS[name]
    start, weight = normal(10, len(x), len(w)), quantise(w)
    there, back = expected(x, weight, start), expected(x, weight, start, backwards=True)
    assert not same(there, back)
    np.testing.assert_allclose(there, back, atol=1e-4)


def blocks_of(kind: str, rows: int, columns: int) -> Weight:
    rng, groups = np.random.default_rng(11), columns // GROUP
    halves = (rng.standard_normal((rows, groups, 2)) * 0.02).astype("<f2").view(np.uint8)
    numbers = rng.integers(0, 256, (rows, groups, 32), dtype=np.uint8)
    if kind == "q8_0":
        numbers[numbers == 128] = 127
        parts = [halves[..., :2], numbers]
    else:
        parts = [halves[..., : 4 if kind == "q4_1" else 2], numbers[..., :16]]
    return Weight(kind, (rows, columns), np.concatenate(parts, 2).reshape(-1))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("kind", ["q8_0", "q4_0", "q4_1"])
def test_blocks_of_a_file_are_read_without_loss(kind: str) -> None:
    weight = blocks_of(kind, 19, 96)
    read, values, out = read_blocks(weight), dequantise(weight), aligned(96)
    name = "q8" if kind == "q8_0" else "q4"
    packed = KINDS[name][2](read)
    memory = aligned(packed.size // 4)
    memory[:] = packed.reshape(-1).view(np.float32)
    for column in (0, 7, 16, 18):
        _column(KINDS[name][0], address(memory), 96, column, address(out))
        np.testing.assert_array_equal(out, values[column])


@pytest.mark.parametrize(("name", "most"), [("q8", 0.006), ("q4", 0.08)])
def test_quantised_weights_are_near_the_floats(name: str, most: float) -> None:
    w = normal(12, 40, 96)
    weight = KINDS[name][1](w)
    scale = np.repeat(weight.scale.astype(np.float32), GROUP, 1)
    low = 0 if weight.low is None else np.repeat(weight.low.astype(np.float32), GROUP, 1)
    error = np.linalg.norm(scale * weight.q + low - w) / np.linalg.norm(w)
    assert 0.0005 < error < most


def test_weights_that_scales_cannot_hold_are_refused() -> None:
    with pytest.raises(ValueError, match="too large"):
        quantise_q8(np.full((1, 32), 1e9, np.float32))
    with pytest.raises(ValueError, match="not finite"):
        quantise_q4(np.full((1, 32), np.inf, np.float32))
    raw = blocks_of("q8_0", 1, 32)
    raw.data[2] = 128
    with pytest.raises(ValueError, match="-128"):
        read_blocks(raw)
    assert padded(17) == 32
