"""Quantise rows of activations to integers of sixteen bits in groups of 32.

Of each group, `amax` is the largest |x|, dx = amax / 32639, and q = x * (32639 / amax) rounded to the nearest
integer, ties to even, in one fused step; sx = dx * (sum of q). A group whose amax is below 2**-100 counts as
zero. One that holds NaN or infinity has dx = NaN and q = 0.

32639 is 127 * 256 + 127: q is high * 256 + low with `high` in [-127, 127] and `low` in [-128, 127], so
instructions for bytes compute a product exactly, as one of `high` and one of `low`.

M rows, K depth (a multiple of 32), G = K / 32 groups.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir

from niels_gpt.kernels.integer_layout import GROUP, USES_BYTES, USES_WORDS
from niels_gpt.kernels.processor import LANES
from niels_gpt.kernels.simd_ir import ADDRESS, COUNT, FLOAT, INT, INT8, INT32, Emitter, Value, kernel, vector

LARGEST = 32639
ROUNDER = 12582912.0  # adding 1.5 * 2**23 rounds to the nearest integer, ties to even
SMALLEST_BITS = 0x0D800000  # 2**-100
INFINITE_BITS = 0x7F800000
INT16 = ir.IntType(16)


class Record:
    """The layout of a row's record.

    `high` and `low` (K int8 each) if products use bytes; q (K int16) if products use words, each four in the
    order 0, 2, 1, 3; then by group dx, sx (float32) and -128 * sum of q (int32).
    """

    def __init__(self, e: Emitter, address: Value, depth: Value, groups: Value) -> None:
        self._b, place = e.b, address
        self._planes: list[Value] = []
        for size, used in ((1, USES_BYTES), (1, USES_BYTES), (2, USES_WORDS)):
            self._planes.append(place)
            place = e.b.add(place, e.b.mul(depth, INT(size))) if used else place
        self._by_group: list[Value] = []
        for _ in range(3):
            self._by_group.append(place)
            place = e.b.add(place, e.b.mul(groups, INT(4)))

    def high(self, g: Value) -> Value:
        """Return the address of a group's high bytes."""
        return self._b.add(self._planes[0], self._b.mul(g, INT(GROUP)))

    def low(self, g: Value) -> Value:
        """Return the address of a group's low bytes."""
        return self._b.add(self._planes[1], self._b.mul(g, INT(GROUP)))

    def words(self, g: Value) -> Value:
        """Return the address of a group's words."""
        return self._b.add(self._planes[2], self._b.mul(g, INT(2 * GROUP)))

    def scale(self, g: Value) -> Value:
        """Return the address of dx."""
        return self._b.add(self._by_group[0], self._b.mul(g, INT(4)))

    def total(self, g: Value) -> Value:
        """Return the address of sx."""
        return self._b.add(self._by_group[1], self._b.mul(g, INT(4)))

    def offset(self, g: Value) -> Value:
        """Return the address of -128 * sum of q."""
        return self._b.add(self._by_group[2], self._b.mul(g, INT(4)))


def _quantise(e: Emitter, x: Value, record: Value, depth: Value) -> None:
    """Quantise one row of `depth` floats into its record."""
    b = e.b
    groups = b.sdiv(depth, INT(GROUP))
    row, bits = Record(e, record, depth, groups), vector(LANES, INT32)
    largest, zero, no_number = (ir.Constant(FLOAT, value) for value in (float(LARGEST), 0.0, np.nan))
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
            if USES_BYTES:
                high = b.ashr(b.add(q, e.whole(128)), e.whole(8))
                low = b.sub(q, b.shl(high, e.whole(8)))
                for plane, start in ((high, row.high(g)), (low, row.low(g))):
                    e.store_to(b.trunc(plane, vector(LANES, INT8)), e.byte_offset(start, LANES * i), 4)
            if USES_WORDS:
                words: Value = b.trunc(q, vector(LANES, INT16))
                order = [4 * (j // 4) + (0, 2, 1, 3)[j % 4] for j in range(LANES)]
                mask = ir.Constant(vector(LANES, INT32), order)
                turned = b.shuffle_vector(words, ir.Constant(vector(LANES, INT16), ir.Undefined), mask)
                e.store_to(turned, e.byte_offset(row.words(g), 2 * LANES * i), 4)
            total = q if total is None else b.add(total, q)
        total = e.call_as(f"llvm.vector.reduce.add.v{LANES}i32", INT32, total)
        e.store_to(scale, row.scale(g), 4)
        e.store_to(b.fmul(scale, b.sitofp(total, FLOAT)), row.total(g), 4)
        e.store_to(b.mul(total, INT32(-128)), row.offset(g), 4)


quantise_row = kernel(_quantise, [ADDRESS, ADDRESS, COUNT])
