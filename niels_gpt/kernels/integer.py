"""Multiply integers in groups of 32 with exact sums, so that no choice of instructions can change a bit.

    y[m, n] = start[m, n] + sum over groups g of (d[n, g] * dx[m, g]) * I[m, n, g] + low[n, g] * sx[m, g]

I is the group's dot product of whole numbers, below 2**20: exact in an int32 and as a float, in whatever
order and by whatever instruction it is computed. Only the chain over groups has an order. With g ascending
from the start value, each step rounds `d * dx` once, then `fma(d * dx, I, acc)`, then for weights of four
bits `fma(low, sx, acc)`.

Activations become integers row by row (`quantise_row`): of each group, `amax` is the largest |x|, dx =
amax / 127, q = x * (127 / amax) rounded to the nearest integer, ties to even, in one fused step, and sx =
dx * (sum of q). A group whose amax is below 2**-100 counts as zero. One that holds NaN or infinity has dx =
NaN and q = 0.

Weights lie in blocks of 16 columns. A cell is 4 consecutive k of those: 64 bytes, byte 4 c + t is column c
and k = 4 p + t of the group. So a register holds whole columns, and no sum crosses lanes.
    Q4: of each group 16 float16 d, 16 float16 low, then four times 64 bytes with cell p in the low four bits
        and cell p + 4 in the high ones (as GGUF pairs them): 320 bytes.
    Q8: first all groups' 16 float16 d (in whole cache lines), then of each group 8 cells: 512 bytes. Where
        the processor multiplies unsigned by signed bytes, they hold q + 128.

M rows, N columns, K depth (a multiple of 32), G = K / 32 groups.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import types

from niels_gpt.kernels.jit import FEATURES, ZERO, compiled
from niels_gpt.kernels.simd_ir import (
    ADDRESS,
    COUNT,
    FLOAT,
    INT,
    INT8,
    INT32,
    KIND,
    LANES,
    Emitter,
    Value,
    kernel,
    vector,
)

GROUP = 32
Q4, Q8 = np.uint8(0), np.uint16(0)
"""Kinds of weights, which `multiply` tells apart by their types."""
Q4_GROUP_BYTES, Q8_CELL_BYTES, SCALE_BYTES = 320, 512, 2 * LANES
CHUNK_BYTES = 192 * 1024  # of activations that pass through the second cache for each column block
AHEAD_BYTES = 1024  # of weights that a single row prefetches
INT16 = ir.IntType(16)


def _path(features: dict[str, bool]) -> str:
    """The instructions that multiply integers; the choice changes the speed, not the bits."""
    if all(features.get(name) for name in ("avx512vnni", "avx512bw", "avx512vl")):
        return "vnni512"
    if features.get("avxvnni"):
        return "vnni256"
    return "avx2" if features.get("avx2") else "plain"


PATH = _path(FEATURES)
WIDTH = 8 if PATH in {"avx2", "vnni256"} else LANES
"""Columns of one register."""
VECTORS = LANES // WIDTH
OFFSET = 128 if PATH.startswith("vnni") else 0
"""The offset added to packed eight-bit weights to make them unsigned."""
KEEPS_SIZES = PATH == "avx2"
"""Whether a record also holds |q|: AVX2 multiplies |x| by the weights with the signs of x."""


def _words(value: int, count: int, bits: ir.IntType = INT16) -> Value:
    return ir.Constant(vector(count, bits), [value] * count)


class _Record:
    """The layout of a row's record: q (K) int8; |q| (K) if kept; by group dx, sx and -128 * sum of q."""

    def __init__(self, e: Emitter, address: Value, depth: Value, groups: Value) -> None:
        self._e = e
        lengths = [depth] * (2 if KEEPS_SIZES else 1) + [e.b.mul(groups, INT(4))] * 3
        places = [address]
        for length in lengths:
            places.append(e.b.add(places[-1], length))
        self._q, self._sizes = places[0], places[1 if KEEPS_SIZES else 0]
        self._scales, self._sums, self._offsets = places[-4:-1]

    def q(self, g: Value) -> Value:
        return self._e.b.add(self._q, self._e.b.mul(g, INT(GROUP)))

    def sizes(self, g: Value) -> Value:
        return self._e.b.add(self._sizes, self._e.b.mul(g, INT(GROUP)))

    def scale(self, g: Value) -> Value:
        return self._by_group(self._scales, g)

    def total(self, g: Value) -> Value:
        return self._by_group(self._sums, g)

    def offset(self, g: Value) -> Value:
        return self._by_group(self._offsets, g)

    def _by_group(self, base: Value, g: Value) -> Value:
        return self._e.b.add(base, self._e.b.mul(g, INT(4)))


class _Group:
    """The weights of one group and one register of columns, ready for any number of rows."""

    def __init__(
        self, e: Emitter, kind: types.Type, block: Value, g: Value, groups: Value, part: int
    ) -> None:
        self._e, self._eight_bits = e, kind == types.uint16
        count = 4 * WIDTH
        self.cells: list[tuple[int, Value]] = []
        self.low: Any = None
        if self._eight_bits:
            scales = e.b.add(block, e.b.mul(g, INT(SCALE_BYTES)))
            at = e.b.add(e.b.add(block, _scales_bytes(e, groups)), e.b.mul(g, INT(Q8_CELL_BYTES)))
            for p in range(8):
                cell = e.load_from(e.byte_offset(at, 64 * p + count * part), vector(count, INT8), 32)
                self.cells.append((p, cell))
        else:
            scales = e.b.add(block, e.b.mul(g, INT(Q4_GROUP_BYTES)))
            for p in range(4):
                at = e.byte_offset(scales, 2 * SCALE_BYTES + 64 * p + count * part)
                both = e.load_from(at, vector(count, INT8), 32)
                shifted = e.b.lshr(e.b.bitcast(both, vector(count // 2, INT16)), _words(4, count // 2))
                low_bits = _words(15, count, INT8)
                self.cells.append((p, e.b.and_(both, low_bits)))
                self.cells.append((p + 4, e.b.and_(e.b.bitcast(shifted, both.type), low_bits)))
            self.low = self._halves(scales, SCALE_BYTES + 2 * WIDTH * part)
        self.scale = self._halves(scales, 2 * WIDTH * part)

    def _halves(self, base: Value, offset: int) -> Value:
        words = self._e.load_from(self._e.byte_offset(base, offset), vector(WIDTH, INT16), 16)
        return self._e.widen_halves(words)

    def dot(self, row: _Record, g: Value) -> Value:
        """Return the sums (WIDTH,) int32 of one row."""
        e = self._e
        count = 4 * WIDTH

        def values(p: int, base: Value) -> Value:
            word = e.load_from(e.byte_offset(base, 4 * p), INT32, 4)
            return e.b.bitcast(e.spread(word, INT32, WIDTH), vector(count, INT8))

        if PATH.startswith("vnni"):
            sums: list[Value] = [_words(0, WIDTH, INT32), _words(0, WIDTH, INT32)]  # two, for the latency
            if self._eight_bits:
                sums[0] = e.spread(e.load_from(row.offset(g), INT32, 4), INT32, WIDTH)
            for p, cell in self.cells:
                sums[p % 2] = _four_products(e, sums[p % 2], cell, values(p, row.q(g)))
            return e.b.add(*sums)
        parts: list[Value] = []
        for p, cell in self.cells:
            x = values(p, row.q(g))
            if PATH == "avx2" and not self._eight_bits:
                parts.append(_pairs(e, cell, x))
            elif PATH == "avx2":
                signed = e.call_as("llvm.x86.avx2.psign.b", cell.type, cell, x)
                parts.append(_add_pairs(e, _pairs(e, values(p, row.sizes(g)), signed)))
            else:
                parts.append(self._plain(cell, x))
        total = parts[0]
        for part in parts[1:]:
            total = e.b.add(total, part)
        # 16 products of at most 15 * 127 fit into an int16; of 127 * 127 only two do.
        return _add_pairs(e, total) if PATH == "avx2" and not self._eight_bits else total

    def _plain(self, cell: Value, x: Value) -> Value:
        """Sum four products in each lane, in plain integer arithmetic."""
        e, words = self._e, 2 * WIDTH
        w16, x16 = (e.b.bitcast(each, vector(words, INT16)) for each in (cell, x))
        shift, eight = (e.b.ashr if self._eight_bits else e.b.lshr), _words(8, words)
        low = _add_plain_pairs(e, shift(e.b.shl(w16, eight), eight), e.b.ashr(e.b.shl(x16, eight), eight))
        return e.b.add(low, _add_plain_pairs(e, shift(w16, eight), e.b.ashr(x16, eight)))


def _four_products(e: Emitter, total: Value, unsigned: Value, signed: Value) -> Value:
    """Return total + four products of unsigned by signed bytes in each lane."""
    bits = 32 * total.type.count
    if binding.llvm_version_info[0] < 22:  # vectors of 32-bit integers before
        unsigned, signed = (e.b.bitcast(each, total.type) for each in (unsigned, signed))
    return e.call_as(f"llvm.x86.avx512.vpdpbusd.{bits}", total.type, total, unsigned, signed)


def _pairs(e: Emitter, unsigned: Value, signed: Value) -> Value:
    """Return sums of two products of bytes; they must fit into an int16 (they saturate otherwise)."""
    return e.call_as("llvm.x86.avx2.pmadd.ub.sw", vector(16, INT16), unsigned, signed)


def _add_pairs(e: Emitter, words: Value) -> Value:
    return e.call_as("llvm.x86.avx2.pmadd.wd", vector(8, INT32), words, _words(1, 16))


def _add_plain_pairs(e: Emitter, w: Value, x: Value) -> Value:
    count = 2 * WIDTH
    products: Value = e.b.mul(e.b.sext(w, vector(count, INT32)), e.b.sext(x, vector(count, INT32)))
    undefined = ir.Constant(products.type, ir.Undefined)
    even, odd = (
        e.b.shuffle_vector(
            products, undefined, ir.Constant(vector(count // 2, INT32), list(range(i, count, 2)))
        )
        for i in (0, 1)
    )
    return e.b.add(even, odd)


def _scales_bytes(e: Emitter, groups: Value) -> Value:
    return e.b.and_(e.b.add(e.b.mul(groups, INT(SCALE_BYTES)), INT(63)), INT(-64))


def _block_bytes(e: Emitter, kind: types.Type, depth: Value) -> Value:
    groups = e.b.sdiv(depth, INT(GROUP))
    if kind == types.uint16:
        return e.b.add(_scales_bytes(e, groups), e.b.mul(groups, INT(Q8_CELL_BYTES)))
    return e.b.mul(groups, INT(Q4_GROUP_BYTES))


block_bytes = kernel(_block_bytes, [KIND, COUNT], COUNT)
"""Return the stride from one column block to the next; arguments as those of `multiply`."""


def _tile(rows: int, blocks: int = 1, parts: tuple[int, ...] = tuple(range(VECTORS)), ahead: int = 0) -> Any:
    """Emit the register tile of `rows` rows by `blocks` column blocks, of each the registers `parts`.

    Arguments: Q4 or Q8; the first row's record and the bytes from one to the next; K; the first block; the
    first start value, its row stride; the first output, its row stride. Strides in floats.
    """

    def emit(
        e: Emitter, kind: types.Type, x: Value, x_row: Value, depth: Value, w: Value,
        start: Value, start_row: Value, y: Value, y_row: Value,
    ) -> None:  # fmt: skip
        groups, size = e.b.sdiv(depth, INT(GROUP)), _block_bytes(e, kind, depth)
        records = [_Record(e, e.b.add(x, e.b.mul(x_row, INT(r))), depth, groups) for r in range(rows)]
        w_at = [e.b.add(w, e.b.mul(size, INT(j))) for j in range(blocks)]
        cells = [(r, j, part) for j in range(blocks) for part in parts for r in range(rows)]

        def place(base: Value, stride: Value, r: int, j: int, part: int) -> Value:
            row = e.b.add(base, e.b.mul(stride, INT(4 * r)))
            return e.byte_offset(row, 4 * (LANES * j + WIDTH * part))

        sums = [e.load_from(place(start, start_row, *cell), vector(WIDTH), 4) for cell in cells]
        with e.loop(groups, 1, sums) as (g, acc):
            scales = [e.spread(e.load_from(r.scale(g), FLOAT, 4), FLOAT, WIDTH) for r in records]
            totals = [e.spread(e.load_from(r.total(g), FLOAT, 4), FLOAT, WIDTH) for r in records]
            if ahead:
                step = Q8_CELL_BYTES if kind == types.uint16 else Q4_GROUP_BYTES
                for at in w_at:
                    for i in range(step // 64):
                        here = e.b.add(at, e.b.mul(g, INT(step)))
                        e.prefetch(e.byte_offset(here, ahead + 64 * i), INT(0))
            group: Any = None
            for i, (r, j, part) in enumerate(cells):
                if r == 0:
                    group = _Group(e, kind, w_at[j], g, groups, part)
                whole = e.b.sitofp(group.dot(records[r], g), vector(WIDTH))
                acc[i] = e.fma(e.mul(group.scale, scales[r]), whole, acc[i])
                if group.low is not None:
                    acc[i] = e.fma(group.low, totals[r], acc[i])
        for cell, value in zip(cells, sums, strict=True):
            e.store_to(value, place(y, y_row, *cell), 4)

    emit.__name__ = f"integer_tile_{rows}x{blocks}x{len(parts)}"
    return kernel(emit, [KIND, ADDRESS, COUNT, COUNT, ADDRESS, ADDRESS, COUNT, ADDRESS, COUNT])


# More rows use the unpacked weights of a group more often, as far as the registers reach.
MANY_ROWS = 8 if FEATURES.get("avx512f") else 4
tile_one = _tile(1, ahead=AHEAD_BYTES)
tile_two = _tile(2)
tile_many = _tile(MANY_ROWS, parts=(0,))
tile_many_rest = _tile(MANY_ROWS, parts=(1,)) if VECTORS > 1 else tile_many
TWO_REGISTERS = VECTORS > 1


@compiled
def multiply(kind, x, x_row, depth, w, start, start_row, y, y_row, rows, first, last):
    """Compute column blocks `first` to `last` - 1 of all rows.

    `kind` is Q4 or Q8, `x` the address of the first row's record. Addresses and `x_row` are in bytes, strides
    in floats.
    """
    size = block_bytes(kind, depth)
    chunk = max(np.int64(MANY_ROWS), CHUNK_BYTES // x_row // MANY_ROWS * MANY_ROWS) if rows > 1 else rows
    begin = ZERO
    while begin < rows:
        end = min(rows, begin + chunk)
        for j in range(first, last):
            block, offset = w + j * size, 4 * LANES * j
            m = begin
            while m + MANY_ROWS <= end:
                at, to = x + m * x_row, y + offset + 4 * m * y_row
                tile_many(
                    kind, at, x_row, depth, block, start + offset + 4 * m * start_row, start_row, to, y_row
                )
                if TWO_REGISTERS:
                    tile_many_rest(
                        kind,
                        at,
                        x_row,
                        depth,
                        block,
                        start + offset + 4 * m * start_row,
                        start_row,
                        to,
                        y_row,
                    )
                m += MANY_ROWS
            while m + 2 <= end:
                tile_two(
                    kind, x + m * x_row, x_row, depth, block,
                    start + offset + 4 * m * start_row, start_row, y + offset + 4 * m * y_row, y_row,
                )  # fmt: skip
                m += 2
            if m < end:
                tile_one(
                    kind, x + m * x_row, x_row, depth, block,
                    start + offset + 4 * m * start_row, start_row, y + offset + 4 * m * y_row, y_row,
                )  # fmt: skip
        begin = end


# -- activations ---------------------------------------------------------------------------------------------

ROUNDER = 12582912.0  # adding 1.5 * 2**23 rounds to the nearest integer, ties to even
SMALLEST_BITS = 0x0D800000  # 2**-100
INFINITE_BITS = 0x7F800000


def record_bytes(depth: int) -> int:
    """Return the bytes of one row's record, in whole cache lines."""
    return -(-((2 if KEEPS_SIZES else 1) * depth + 12 * (depth // GROUP)) // 64) * 64


def _quantise(e: Emitter, x: Value, record: Value, depth: Value) -> None:
    """Quantise one row of `depth` floats into its record."""
    b = e.b
    groups = b.sdiv(depth, INT(GROUP))
    row, bits = _Record(e, record, depth, groups), vector(LANES, INT32)
    largest, zero, no_number = ir.Constant(FLOAT, 127.0), ir.Constant(FLOAT, 0.0), ir.Constant(FLOAT, np.nan)
    with e.loop(groups, 1, []) as (g, _):
        parts = [e.load(x, b.add(b.mul(g, INT(GROUP)), INT(LANES * i))) for i in range(2)]
        # As whole numbers the bits of |x| are in the order of |x|; infinity and NaN are the largest.
        sizes = [b.and_(e.bits(part), e.whole(0x7FFFFFFF)) for part in parts]
        most = e.call_as(f"llvm.umax.v{LANES}i32", bits, *sizes)
        amax = e.call_as(f"llvm.vector.reduce.umax.v{LANES}i32", INT32, most)
        finite = b.icmp_unsigned("<", amax, INT32(INFINITE_BITS))
        usable = b.and_(finite, b.icmp_unsigned(">=", amax, INT32(SMALLEST_BITS)))
        size = b.select(usable, b.bitcast(amax, FLOAT), largest)
        scale = b.select(usable, b.fdiv(size, largest), b.select(finite, zero, no_number))
        inverse = e.spread(b.select(usable, b.fdiv(largest, size), zero))
        used = e.spread(usable, ir.IntType(1))
        total: Value = None
        for i, part in enumerate(parts):
            clean = e.where(used, part, e.real(0.0))
            moved = e.fma(clean, inverse, e.real(ROUNDER))
            q = b.sub(e.bits(moved), e.bits(e.real(ROUNDER)))
            e.store_to(b.trunc(q, vector(LANES, INT8)), e.byte_offset(row.q(g), LANES * i), 4)
            if KEEPS_SIZES:
                absolute = e.call_as(f"llvm.abs.v{LANES}i32", bits, q, ir.IntType(1)(0))
                e.store_to(b.trunc(absolute, vector(LANES, INT8)), e.byte_offset(row.sizes(g), LANES * i), 4)
            total = q if total is None else b.add(total, q)
        total = e.call_as(f"llvm.vector.reduce.add.v{LANES}i32", INT32, total)
        e.store_to(scale, row.scale(g), 4)
        e.store_to(b.fmul(scale, b.sitofp(total, FLOAT)), row.total(g), 4)
        e.store_to(b.mul(total, INT32(-128)), row.offset(g), 4)


quantise_row = kernel(_quantise, [ADDRESS, ADDRESS, COUNT])


# -- rows of an embedding ------------------------------------------------------------------------------------


def _dequantise(e: Emitter, kind: types.Type, w: Value, depth: Value, column: Value, y: Value) -> None:
    """Unpack the weights of one column, (depth,) floats: d * q, exact, or fma(d, q, low)."""
    b = e.b
    groups = b.sdiv(depth, INT(GROUP))
    block = b.add(w, b.mul(_block_bytes(e, kind, depth), b.sdiv(column, INT(LANES))))
    lane = b.srem(column, INT(LANES))
    eight_bits = kind == types.uint16

    def half(base: Value) -> Value:
        word = e.load_from(b.add(base, b.mul(lane, INT(2))), INT16, 2)
        one = e.spread(word, INT16, 4)
        return e.spread(b.extract_element(e.widen_halves(one), INT32(0)), FLOAT, 4)

    with e.loop(groups, 1, []) as (g, _):
        if eight_bits:
            scale, low = half(b.add(block, b.mul(g, INT(SCALE_BYTES)))), None
            cells = b.add(b.add(block, _scales_bytes(e, groups)), b.mul(g, INT(Q8_CELL_BYTES)))
        else:
            head = b.add(block, b.mul(g, INT(Q4_GROUP_BYTES)))
            scale, low = half(head), half(e.byte_offset(head, SCALE_BYTES))
            cells = e.byte_offset(head, 2 * SCALE_BYTES)
        cells = b.add(cells, b.mul(lane, INT(4)))
        for p in range(8):
            at = e.byte_offset(cells, 64 * (p if eight_bits else p % 4))
            raw = b.zext(e.load_from(at, vector(4, INT8), 4), vector(4, INT32))
            if eight_bits and OFFSET:
                value = b.sub(raw, e.whole(OFFSET, 4))
            elif eight_bits:
                value = b.ashr(b.shl(raw, e.whole(24, 4)), e.whole(24, 4))
            else:
                value = b.and_(b.lshr(raw, e.whole(4 * (p // 4), 4)), e.whole(15, 4))
            number = b.sitofp(value, vector(4))
            result = e.mul(scale, number) if eight_bits else e.fma(scale, number, low)
            e.store_to(result, b.add(y, b.add(b.mul(g, INT(4 * GROUP)), INT(16 * p))), 4)


dequantise_column = kernel(_dequantise, [KIND, ADDRESS, COUNT, COUNT, ADDRESS])
