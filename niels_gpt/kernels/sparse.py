"""Sum over the nonzero elements of a row, so that sparse latents are cheap.

    y[c] = sum over n with x[n] != 0 of x[n] * m[n, c]

Each output is one chain of fused multiply-adds from zero with n ascending; zeros are skipped. That is the
whole definition, however many columns are computed at a time. `recall` also adds the outer product of x and a
vector v to m in the same pass, fma(x[n], v[c], m[n, c]) after m[n, c] was read, so a memory is read before it
is updated. A NaN counts as not zero. Addresses in bytes, strides and counts in floats.

m has rows of whole vectors, one behind the other.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from niels_gpt.kernels.jit import inner
from niels_gpt.kernels.processor import LANES
from niels_gpt.kernels.simd_ir import ADDRESS, COUNT, INT, Emitter, Value, kernel


def _integer(e: Emitter, address: Value, index: Value) -> Value:
    """Return a pointer to 64-bit integer number `index`."""
    return e.b.gep(e.b.inttoptr(address, ir.PointerType(INT)), [index])


def _find_active(e: Emitter, x: Value, count: Value, indices: Value) -> Value:
    """Store the indices n with x[n] != 0, ascending, as int64; return how many. May write one more."""
    found = [INT(0)]
    with e.loop(count, 1, found) as (n, so_far):
        e.b.store(n, _integer(e, indices, so_far[0]))
        is_active = e.b.fcmp_unordered("!=", e.load_scalar(x, n), ir.Constant(ir.FloatType(), 0.0))
        so_far[0] = e.b.add(so_far[0], e.b.zext(is_active, INT))
    return found[0]


def _tile(blocks: int, *, learns: bool) -> Any:
    """Emit the sums for `blocks` vectors of columns from column `first` on; `learns` adds x times v to m."""

    def emit(
        e: Emitter, x: Value, indices: Value, count: Value, m: Value, m_row: Value, v: Value, y: Value,
        first: Value,
    ) -> None:  # fmt: skip
        columns = [e.b.add(first, INT(LANES * block)) for block in range(blocks)]
        news = [e.load(v, column) for column in columns] if learns else []
        sums = [e.real(0.0) for _ in columns]
        with e.loop(count, 1, sums) as (i, chain):
            n = e.b.load(_integer(e, indices, i))
            weight = e.spread(e.load_scalar(x, n))
            row = e.b.mul(n, m_row)
            for block, column in enumerate(columns):
                known = e.load(m, e.b.add(row, column))
                chain[block] = e.fma(weight, known, chain[block])
                if learns:
                    e.store(e.fma(weight, news[block], known), m, e.b.add(row, column))
        for column, value in zip(columns, sums, strict=True):
            e.store(value, y, column)

    emit.__name__ = f"{'recall' if learns else 'gather'}_{blocks}"
    return kernel(emit, [ADDRESS, ADDRESS, COUNT, ADDRESS, COUNT, ADDRESS, ADDRESS, COUNT])


find_active = kernel(_find_active, [ADDRESS, COUNT, ADDRESS], COUNT)
gather_8, gather_4, gather_1 = (_tile(blocks, learns=False) for blocks in (8, 4, 1))
recall_8, recall_4, recall_1 = (_tile(blocks, learns=True) for blocks in (8, 4, 1))


@inner
def gather(x, indices, count, m, m_row, y, first, last):
    """Compute column vectors `first` to `last` - 1 of y over the `count` indices found by `find_active`."""
    j = first
    while j + 8 <= last:
        gather_8(x, indices, count, m, m_row, m, y, j * LANES)
        j += 8
    while j + 4 <= last:
        gather_4(x, indices, count, m, m_row, m, y, j * LANES)
        j += 4
    while j < last:
        gather_1(x, indices, count, m, m_row, m, y, j * LANES)
        j += 1


@inner
def recall(x, indices, count, m, m_row, v, y):
    """Compute all columns of y from m, then add the outer product of x and v to m."""
    j, last = 0, m_row // LANES
    while j + 8 <= last:
        recall_8(x, indices, count, m, m_row, v, y, j * LANES)
        j += 8
    while j + 4 <= last:
        recall_4(x, indices, count, m, m_row, v, y, j * LANES)
        j += 4
    while j < last:
        recall_1(x, indices, count, m, m_row, v, y, j * LANES)
        j += 1
