"""Lay out weights of integers in groups of 32, multiply a group by rows exactly, and read single columns.

Weights lie in blocks of 16 columns. A cell is 4 consecutive k of those: 64 bytes, byte 4 c + t is column c
and k = 4 p + t of the group. So a register holds whole columns, and no sum crosses lanes.
    Q4: of each group 16 float16 d, 16 float16 low, then four times 64 bytes with cell p in the low four bits
        and cell p + 4 in the high ones (as GGUF pairs them): 320 bytes.
    Q8: first all groups' 16 float16 d (in whole cache lines), then of each group 8 cells: 512 bytes. Where
        the processor multiplies unsigned by signed bytes, they hold q + 128.

No instruction can saturate: the largest sums are stated where they are made. K depth, G = K / 32 groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import types

from niels_gpt.kernels.integer_layout import GROUP, OFFSET, PATH, Q4_GROUP_BYTES, Q8_CELL_BYTES, SCALE_BYTES
from niels_gpt.kernels.integer_rows import INT16, Record
from niels_gpt.kernels.processor import LANES
from niels_gpt.kernels.simd_ir import (
    ADDRESS,
    COUNT,
    FLOAT,
    INT,
    INT8,
    INT32,
    KIND,
    Emitter,
    Value,
    kernel,
    vector,
)

Q4, Q8 = np.uint8(0), np.uint16(0)
"""Kinds of weights, which kernels tell apart by their types."""
WIDTH = {"neon": 4, "avx2": 8, "vnni256": 8}.get(PATH, LANES)
"""Columns of one register."""


def _constants(value: int, count: int, bits: ir.IntType) -> Value:
    return ir.Constant(vector(count, bits), [value] * count)


def scales_size(e: Emitter, groups: Value) -> Value:
    """Return the bytes in front of a Q8 block's cells."""
    return e.b.and_(e.b.add(e.b.mul(groups, INT(SCALE_BYTES)), INT(63)), INT(-64))


def block_size(e: Emitter, kind: types.Type, depth: Value) -> Value:
    """Return the bytes of a column block."""
    groups = e.b.sdiv(depth, INT(GROUP))
    if kind == types.uint16:
        return e.b.add(scales_size(e, groups), e.b.mul(groups, INT(Q8_CELL_BYTES)))
    return e.b.mul(groups, INT(Q4_GROUP_BYTES))


block_bytes = kernel(block_size, [KIND, COUNT], COUNT)
"""Return the stride from one column block to the next, in bytes; arguments Q4 or Q8, and K."""


class Group:
    """The weights of one group and one register of columns, ready for any number of rows."""

    def __init__(
        self, e: Emitter, kind: types.Type, block: Value, g: Value, groups: Value, part: int
    ) -> None:
        self._e, self._eight_bits = e, kind == types.uint16
        count = 4 * WIDTH
        self._cells: list[tuple[int, Value]] = []
        self.low: Any = None
        """(WIDTH,) floats for four bits."""
        if self._eight_bits:
            scales = e.b.add(block, e.b.mul(g, INT(SCALE_BYTES)))
            at = e.b.add(e.b.add(block, scales_size(e, groups)), e.b.mul(g, INT(Q8_CELL_BYTES)))
            for p in range(8):
                cell = e.load_from(e.byte_offset(at, 64 * p + count * part), vector(count, INT8), 16)
                self._cells.append((p, cell))
        else:
            scales = e.b.add(block, e.b.mul(g, INT(Q4_GROUP_BYTES)))
            low_bits = _constants(15, count, INT8)
            for p in range(4):
                at = e.byte_offset(scales, 2 * SCALE_BYTES + 64 * p + count * part)
                both = e.load_from(at, vector(count, INT8), 16)
                shifted = e.b.lshr(
                    e.b.bitcast(both, vector(count // 2, INT16)), _constants(4, count // 2, INT16)
                )
                self._cells.append((p, e.b.and_(both, low_bits)))
                self._cells.append((p + 4, e.b.and_(e.b.bitcast(shifted, both.type), low_bits)))
            self.low = self._halves(scales, SCALE_BYTES + 2 * WIDTH * part)
        self.scale = self._halves(scales, 2 * WIDTH * part)
        """(WIDTH,) floats."""

    def _halves(self, base: Value, offset: int) -> Value:
        halves = self._e.load_from(self._e.byte_offset(base, offset), vector(WIDTH, INT16), 8)
        return self._e.widen_halves(halves)

    def dots(self, rows: Sequence[Record], g: Value) -> list[Value]:
        """Return each row's dot products (WIDTH,) int32, exact."""
        if PATH.startswith("vnni"):
            return [self._by_bytes(row, g, _dot_unsigned) for row in rows]
        if PATH == "neon":
            return [self._by_bytes(row, g, _dot_signed) for row in rows]
        if PATH == "avx2" and not self._eight_bits:
            return [self._by_pairs(row, g) for row in rows]
        return self._by_words(rows, g)

    def _spread(self, base: Value, offset: int, element: ir.IntType) -> Value:
        """Copy the four bytes at an offset to every column."""
        e = self._e
        word = e.spread(e.load_from(e.byte_offset(base, offset), INT32, 4), INT32, WIDTH)
        return e.b.bitcast(word, vector(32 // element.width * WIDTH, element))

    def _by_bytes(self, row: Record, g: Value, dot: Any) -> Value:
        """Sum `high` and `low` by instructions that add four products of bytes to an int32."""
        e = self._e
        sums = [_constants(0, WIDTH, INT32), _constants(0, WIDTH, INT32)]
        if OFFSET and self._eight_bits:
            # The products of q + 128 sum up to 128 * sum of q too much, below 2**27.
            sums[1] = e.spread(e.load_from(row.offset(g), INT32, 4), INT32, WIDTH)
        for p, cell in sorted(self._cells, key=lambda each: each[0]):
            for i, base in enumerate((row.high(g), row.low(g))):
                sums[i] = dot(e, sums[i], cell, self._spread(base, 4 * p, INT8))
        return e.b.add(e.b.shl(sums[0], _constants(8, WIDTH, INT32)), sums[1])

    def _by_pairs(self, row: Record, g: Value) -> Value:
        """Sum `high` and `low` of four-bit weights by AVX2's products of unsigned by signed bytes.

        Pairs are at most 2 * 15 * 128, sums of 16 products at most 30,720: they fit into an int16.
        """
        e = self._e
        totals: list[Value] = []
        for base in (row.high(g), row.low(g)):
            total: Value = None
            for p, cell in self._cells:
                pairs = e.call_as(
                    "llvm.x86.avx2.pmadd.ub.sw", vector(16, INT16), cell, self._spread(base, 4 * p, INT8)
                )
                total = pairs if total is None else e.b.add(total, pairs)
            totals.append(total)
        high, low = (
            e.call_as("llvm.x86.avx2.pmadd.wd", vector(8, INT32), total, _constants(factor, 16, INT16))
            for total, factor in zip(totals, (256, 1), strict=True)
        )
        return e.b.add(high, low)

    def _by_words(self, rows: Sequence[Record], g: Value) -> list[Value]:
        """Sum products of words: the even k of each cell and column with those of the row, then the odd k."""
        e, count = self._e, 2 * WIDTH
        sums: list[Value] = [_constants(0, WIDTH, INT32) for _ in rows]
        eight = _constants(8, count, INT16)
        for p, cell in self._cells:
            both = e.b.bitcast(cell, vector(count, INT16))
            shift = e.b.ashr if self._eight_bits else e.b.lshr
            halves = (shift(e.b.shl(both, eight), eight), shift(both, eight))
            for i, row in enumerate(rows):
                for half, w in enumerate(halves):
                    x = self._spread(row.words(g), 8 * p + 4 * half, INT16)
                    sums[i] = e.b.add(sums[i], _word_pairs(e, w, x))
        return sums


def _dot_unsigned(e: Emitter, total: Value, unsigned: Value, signed: Value) -> Value:
    """Return total + four products of unsigned by signed bytes in each lane; does not saturate."""
    bits = 32 * total.type.count
    if binding.llvm_version_info[0] < 22:  # vectors of 32-bit integers before
        unsigned, signed = (e.b.bitcast(each, total.type) for each in (unsigned, signed))
    return e.call_as(f"llvm.x86.avx512.vpdpbusd.{bits}", total.type, total, unsigned, signed)


def _dot_signed(e: Emitter, total: Value, w: Value, x: Value) -> Value:
    """Return total + four products of signed bytes in each lane."""
    return e.call_as("llvm.aarch64.neon.sdot.v4i32.v16i8", total.type, total, w, x)


def _word_pairs(e: Emitter, w: Value, x: Value) -> Value:
    """Return sums of two products of words in each lane of 32 bits."""
    if PATH == "avx2":
        return e.call_as("llvm.x86.avx2.pmadd.wd", vector(8, INT32), w, x)
    count = w.type.count
    products: Value = e.b.mul(e.b.sext(w, vector(count, INT32)), e.b.sext(x, vector(count, INT32)))
    undefined = ir.Constant(products.type, ir.Undefined)
    even, odd = (
        e.b.shuffle_vector(
            products, undefined, ir.Constant(vector(count // 2, INT32), list(range(i, count, 2)))
        )
        for i in (0, 1)
    )
    return e.b.add(even, odd)


# -- rows of an embedding ------------------------------------------------------------------------------------


def _dequantise(e: Emitter, kind: types.Type, w: Value, depth: Value, column: Value, y: Value) -> None:
    """Unpack the weights of one column, (depth,) floats: d * q, exact, or fma(d, q, low)."""
    b = e.b
    groups = b.sdiv(depth, INT(GROUP))
    block = b.add(w, b.mul(block_size(e, kind, depth), b.sdiv(column, INT(LANES))))
    lane = b.srem(column, INT(LANES))
    eight_bits = kind == types.uint16

    def half(base: Value) -> Value:
        word = e.load_from(b.add(base, b.mul(lane, INT(2))), INT16, 2)
        one = e.spread(word, INT16, 4)
        return e.spread(b.extract_element(e.widen_halves(one), INT32(0)), FLOAT, 4)

    with e.loop(groups, 1, []) as (g, _):
        if eight_bits:
            scale, low = half(b.add(block, b.mul(g, INT(SCALE_BYTES)))), None
            cells = b.add(b.add(block, scales_size(e, groups)), b.mul(g, INT(Q8_CELL_BYTES)))
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
