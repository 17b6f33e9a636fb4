"""Compute matrix products whose bits depend on nothing but their inputs.

    y[m, n] = start[m, n] + sum over k of x[m, k] * w[k, n]

Each output is one chain of fused multiply-adds with k ascending. With float32 weights it continues from the
start value; bfloat16 and float16 weights are widened exactly, so they are float32 weights to the bit. With
int8 weights (module `int8`) w[k, n] is q[k, n] * scale[n]: the chain starts from 0 and runs over
x[m, k] * q[k, n], and the last step is fma(chain, scale[n], start[m, n]). That order is the whole
definition: register tile, batch size, chunk and thread cannot change a bit. Attention runs on the same
float32 tiles: its scores are a product over the head's width, its mix of values one over positions.

Weights are packed in blocks of 16 columns: block j holds, for each k, columns 16 j to 16 j + 15; a block of
int8 weights starts with their 16 scales, one of 16-bit floats takes half of the space. K depth, M rows, N
columns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from niels_gpt.kernels.jit import ZERO, compiled, inner
from niels_gpt.kernels.processor import FEATURES, LANES
from niels_gpt.kernels.simd_ir import ADDRESS, COUNT, INT, INT32, KIND, Emitter, Value, kernel, vector

INT8_FLOATS = LANES // 4  # the size of one vector of int8 weights
HALF_FLOATS = LANES // 2  # and of one of 16-bit floats
HALVES = vector(LANES, ir.IntType(16))

# The type of this argument selects the tiles that are compiled.
FLOAT32, INT8, BF16, F16 = np.float32(0), np.int8(0), np.uint16(0), np.int16(0)


WIDE = bool(FEATURES.get("avx512f"))
"""Return whether Numba compiles for 32 registers of 512 bits; this changes the speed, not the bits."""


def _weight(e: Emitter, kind: types.Type, w: Value, at: Value, k: Value) -> Value:
    """Load row k of the column block that begins `at` floats after `w`, as floats."""
    if kind == types.int8:
        return e.load_int8(w, e.b.add(at, e.b.add(INT(LANES), e.b.mul(k, INT(INT8_FLOATS)))))
    if kind not in {types.uint16, types.int16}:
        return e.load(w, e.b.add(at, e.b.mul(k, INT(LANES))))
    offset = e.b.mul(e.b.add(at, e.b.mul(k, INT(HALF_FLOATS))), INT(4))
    halves = e.load_from(e.b.add(w, offset), HALVES, 4)
    if kind == types.int16:
        return e.widen_halves(halves)
    return e.from_bits(e.b.shl(e.b.zext(halves, vector(LANES, INT32)), e.whole(16)))


def _tile(rows: int, blocks: int, ahead: int = 0) -> Any:
    """Emit the register tile of `rows` rows by `blocks` column blocks; its first output is row m, block j.

    Arguments: FLOAT32, INT8, BF16 or F16; x and its row stride; w and the stride from one column block to the
    next; K; the start values and their row stride (0 repeats one row: a bias, or zeros); y and its row
    stride; m; j. y may be the start itself. While it computes, the tile fetches the weights `ahead` blocks
    further on into the cache.
    """

    def emit(
        e: Emitter, kind: types.Type, x: Value, x_row: Value, w: Value, w_block: Value, depth: Value,
        start: Value, start_row: Value, y: Value, y_row: Value, m: Value, j: Value,
    ) -> None:  # fmt: skip
        add, mul = e.b.add, e.b.mul
        row = [add(m, INT(i)) for i in range(rows)]
        column = [mul(add(j, INT(i)), INT(LANES)) for i in range(blocks)]
        x_at = [mul(x_row, r) for r in row]
        w_at = [mul(w_block, add(j, INT(i))) for i in range(blocks)]
        cells = [(r, c) for r in range(rows) for c in range(blocks)]
        whole = kind == types.int8

        def starts() -> list[Value]:
            return [e.load(start, add(mul(start_row, row[r]), column[c])) for r, c in cells]

        sums = [e.real(0.0) for _ in cells] if whole else starts()
        with e.loop(depth, 1, sums) as (k, chain):
            weights = [_weight(e, kind, w, at, k) for at in w_at]
            for at in w_at if ahead and not whole else ():
                e.prefetch(w, add(at, add(mul(k, INT(LANES)), mul(w_block, INT(ahead)))))
            spread = [e.spread(e.load_scalar(x, add(at, k))) for at in x_at]
            for i, (r, c) in enumerate(cells):
                chain[i] = e.fma(spread[r], weights[c], chain[i])
        if whole:
            scales = [e.load(w, at) for at in w_at]
            ends = zip(cells, sums, starts(), strict=True)
            sums = [e.fma(chain, scales[c], first) for (_, c), chain, first in ends]
        for (r, c), value in zip(cells, sums, strict=True):
            e.store(value, y, add(mul(y_row, row[r]), column[c]))

    emit.__name__ = f"tile_{rows}x{blocks}"
    addresses = [ADDRESS, COUNT, ADDRESS, COUNT, COUNT, ADDRESS, COUNT, ADDRESS, COUNT]
    return kernel(emit, [KIND, *addresses, COUNT, COUNT])


# Chosen by measurement: eight chains hide the latency of a fused multiply-add, more reuse each weight and
# each value of x more often, as far as the registers reach (16 vectors of 256 bits with AVX2, 32 of 512 with
# AVX-512). Tiles of eight rows wait the least for weights, and prefetch the next ones in time. With one row
# the hardware prefetcher is as fast.
tile_1x8, tile_1x4, tile_1x2, tile_1x1 = _tile(1, 8), _tile(1, 4), _tile(1, 2), _tile(1, 1)
tile_2x4, tile_2x1 = _tile(2, 4), _tile(2, 1)
tile_4x4, tile_4x1 = _tile(4, 4), _tile(4, 1)
tile_6x1 = _tile(6, 1)
tile_8x2 = _tile(8, 2, ahead=2)


@compiled
def linear(kind, x, x_row, w, w_block, depth, start, start_row, y, y_row, rows, first, last):
    """Compute column blocks `first` to `last` - 1 of all rows.

    `kind` is FLOAT32, INT8, BF16 or F16. Addresses are in bytes, strides in floats.
    """
    j = first
    if rows == 1:
        while j + 8 <= last:
            tile_1x8(kind, x, x_row, w, w_block, depth, start, start_row, y, y_row, 0, j)
            j += 8
        while j + 4 <= last:
            tile_1x4(kind, x, x_row, w, w_block, depth, start, start_row, y, y_row, 0, j)
            j += 4
        while j + 2 <= last:
            tile_1x2(kind, x, x_row, w, w_block, depth, start, start_row, y, y_row, 0, j)
            j += 2
    elif WIDE or rows < 4:
        while j + 4 <= last:
            _four_blocks(kind, x, x_row, w, w_block, depth, start, start_row, y, y_row, rows, j)
            j += 4
    while j < last:
        _one_block(kind, x, x_row, w, w_block, depth, start, start_row, y, y_row, rows, j)
        j += 1


@inner
def _four_blocks(kind, x, x_row, w, w_block, depth, start, start_row, y, y_row, rows, j):
    m = ZERO
    if WIDE:  # all rows with two blocks, then with the other two
        while m + 8 <= rows:
            tile_8x2(kind, x, x_row, w, w_block, depth, start, start_row, y, y_row, m, j)
            m += 8
        eights, m = m, ZERO
        while m < eights:
            tile_8x2(kind, x, x_row, w, w_block, depth, start, start_row, y, y_row, m, j + 2)
            m += 8
    while m + 4 <= rows:
        tile_4x4(kind, x, x_row, w, w_block, depth, start, start_row, y, y_row, m, j)
        m += 4
    while m + 2 <= rows:
        tile_2x4(kind, x, x_row, w, w_block, depth, start, start_row, y, y_row, m, j)
        m += 2
    if m < rows:
        tile_1x4(kind, x, x_row, w, w_block, depth, start, start_row, y, y_row, m, j)


@inner
def _one_block(kind, x, x_row, w, w_block, depth, start, start_row, y, y_row, rows, j):
    m = ZERO
    while not WIDE and m + 6 <= rows:
        tile_6x1(kind, x, x_row, w, w_block, depth, start, start_row, y, y_row, m, j)
        m += 6
    while m + 4 <= rows:
        tile_4x1(kind, x, x_row, w, w_block, depth, start, start_row, y, y_row, m, j)
        m += 4
    while m + 2 <= rows:
        tile_2x1(kind, x, x_row, w, w_block, depth, start, start_row, y, y_row, m, j)
        m += 2
    if m < rows:
        tile_1x1(kind, x, x_row, w, w_block, depth, start, start_row, y, y_row, m, j)


def _block_floats(e: Emitter, kind: types.Type, depth: Value) -> Value:
    if kind == types.int8:
        return e.b.add(INT(LANES), e.b.mul(depth, INT(INT8_FLOATS)))
    if kind in {types.uint16, types.int16}:
        return e.b.mul(depth, INT(HALF_FLOATS))
    return e.b.mul(depth, INT(LANES))


block_floats = kernel(_block_floats, [KIND, COUNT], COUNT)
"""Return the stride from one column block of packed weights to the next; arguments as for `linear`."""
