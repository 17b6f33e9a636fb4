"""Multiply integers in groups of 32 with exact sums, so that no choice of instructions can change a bit.

    y[m, n] = start[m, n] + sum over groups g of (d[n, g] * dx[m, g]) * I[m, n, g] + low[n, g] * sx[m, g]

I is the group's dot product of integers, below 2**27: exact in an int32, in whatever order and by whatever
instruction it is computed. Only the chain over groups has an order. With g ascending from the start value,
each step rounds `d * dx` once and I once to the nearest float, ties to even; then `fma(d * dx, I, acc)`, then
for weights of four bits `fma(low, sx, acc)`. `integer_rows` defines the integers of activations, dx and sx,
`integer_weights` how weights are packed.

M rows, N columns, K depth (a multiple of 32), G = K / 32 groups.
"""

from __future__ import annotations

from typing import Any

from numba import types

from niels_gpt.kernels.integer_layout import GROUP, Q4_GROUP_BYTES, Q8_CELL_BYTES
from niels_gpt.kernels.integer_rows import Record
from niels_gpt.kernels.integer_weights import WIDTH, Group, block_bytes
from niels_gpt.kernels.jit import ZERO, compiled
from niels_gpt.kernels.processor import FEATURES, LANES
from niels_gpt.kernels.simd_ir import ADDRESS, COUNT, FLOAT, INT, KIND, Emitter, Value, kernel, vector

CHUNK_BYTES = 192 * 1024  # of activations that pass through the second cache for each column block
AHEAD_BYTES = 1024  # of weights that a single row prefetches
REGISTERS = LANES // WIDTH


def _tile(rows: int, together: int = REGISTERS, ahead: int = 0) -> Any:
    """Emit the tile of `rows` rows by one column block, `together` registers of columns at a time.

    Arguments: Q4 or Q8; the first row's record and the bytes from one to the next; K; the block; the first
    start value, its row stride; the first output, its row stride. Strides in floats.
    """

    def emit(
        e: Emitter, kind: types.Type, x: Value, x_row: Value, depth: Value, w: Value,
        start: Value, start_row: Value, y: Value, y_row: Value,
    ) -> None:  # fmt: skip
        groups = e.b.sdiv(depth, INT(GROUP))
        records = [Record(e, e.b.add(x, e.b.mul(x_row, INT(r))), depth, groups) for r in range(rows)]
        size = Q8_CELL_BYTES if kind == types.uint16 else Q4_GROUP_BYTES

        def place(base: Value, stride: Value, r: int, part: int) -> Value:
            return e.byte_offset(e.b.add(base, e.b.mul(stride, INT(4 * r))), 4 * WIDTH * part)

        for first in range(0, REGISTERS, together):
            parts = range(first, first + together)
            cells = [(r, part) for part in parts for r in range(rows)]
            sums = [e.load_from(place(start, start_row, *cell), vector(WIDTH), 4) for cell in cells]
            with e.loop(groups, 1, sums) as (g, acc):
                scales = [e.spread(e.load_from(r.scale(g), FLOAT, 4), FLOAT, WIDTH) for r in records]
                totals = [e.spread(e.load_from(r.total(g), FLOAT, 4), FLOAT, WIDTH) for r in records]
                for i in range(size // 64) if ahead else ():
                    e.prefetch(e.byte_offset(e.b.add(w, e.b.mul(g, INT(size))), ahead + 64 * i), INT(0))
                for n, part in enumerate(parts):
                    group = Group(e, kind, w, g, groups, part)
                    for r, dot in enumerate(group.dots(records, g)):
                        i = n * rows + r
                        whole = e.b.sitofp(dot, vector(WIDTH))
                        acc[i] = e.fma(e.mul(group.scale, scales[r]), whole, acc[i])
                        if group.low is not None:
                            acc[i] = e.fma(group.low, totals[r], acc[i])
            for cell, value in zip(cells, sums, strict=True):
                e.store_to(value, place(y, y_row, *cell), 4)

    emit.__name__ = f"integer_tile_{rows}"
    return kernel(emit, [KIND, ADDRESS, COUNT, COUNT, ADDRESS, ADDRESS, COUNT, ADDRESS, COUNT])


# More rows use the unpacked weights of a group more often, as far as the registers reach.
MANY_ROWS = 8 if FEATURES.get("avx512f") else 4
tile_one, tile_two, tile_many = _tile(1, ahead=AHEAD_BYTES), _tile(2), _tile(MANY_ROWS, together=1)


@compiled
def multiply(kind, x, x_row, depth, w, start, start_row, y, y_row, rows, first, last):
    """Compute column blocks `first` to `last` - 1 of all rows.

    `kind` is Q4 or Q8, `x` the address of the first row's record. Addresses and `x_row` are in bytes, strides
    in floats.
    """
    size = block_bytes(kind, depth)
    chunk = max(MANY_ROWS, CHUNK_BYTES // x_row // MANY_ROWS * MANY_ROWS) if rows > 1 else rows
    begin = ZERO
    while begin < rows:
        end = min(rows, begin + chunk)
        for j in range(first, last):
            block, m = w + j * size, begin
            from_row, to_row = start + 4 * LANES * j, y + 4 * LANES * j
            while m < end:
                at, from_at, to = x + m * x_row, from_row + 4 * m * start_row, to_row + 4 * m * y_row
                if m + MANY_ROWS <= end:
                    tile_many(kind, at, x_row, depth, block, from_at, start_row, to, y_row)
                    m += MANY_ROWS
                elif m + 2 <= end:
                    tile_two(kind, at, x_row, depth, block, from_at, start_row, to, y_row)
                    m += 2
                else:
                    tile_one(kind, at, x_row, depth, block, from_at, start_row, to, y_row)
                    m += 1
        begin = end
