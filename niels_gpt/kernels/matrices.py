"""Multiply by a packed weight of any form, and read rows of an embedding.

Products are compiled for themselves and called through an address. So each form of weights costs only the
compilation of its own tiles, when a model of it is packed, and the tiles are not compiled again with every
kernel that uses them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from llvmlite import ir
from numba import types

from niels_gpt.kernels.gpt_layout import EIGHT_BITS, F16S, FLOATS, FOUR_BITS, ROWS
from niels_gpt.kernels.integer import multiply
from niels_gpt.kernels.integer_rows import quantise_row
from niels_gpt.kernels.integer_weights import Q4, Q8, dequantise_column
from niels_gpt.kernels.jit import ONE, ZERO, caller, inner
from niels_gpt.kernels.linear import BF16, F16, FLOAT32, INT8, block_floats, linear
from niels_gpt.kernels.processor import LANES
from niels_gpt.kernels.row_ops import copy_row
from niels_gpt.kernels.simd_ir import ADDRESS, COUNT, FLOAT, INT, INT32, Emitter, Value, kernel

HALF_WORD = ir.IntType(16)


class Factor(NamedTuple):
    """The rows that a product multiplies, at the address `rows`, `row` floats each."""

    rows: int
    row: int
    records: int
    """The same rows as integers, `record_row` bytes each; only products of groups read them."""
    record_row: int


def float32_product(x, x_row, w, w_block, depth, start, start_row, y, y_row, rows, first, last):
    """Multiply by float32 weights in column blocks; the arguments are those of `linear` without its kind."""
    linear(FLOAT32, x, x_row, w, w_block, depth, start, start_row, y, y_row, rows, first, last)


def _int8(code, x, x_row, records, record_row, w, depth, start, start_row, y, y_row, rows, first, last):  # noqa: ARG001
    block = block_floats(INT8, depth)
    linear(INT8, x, x_row, w, block, depth, start, start_row, y, y_row, rows, first, last)


def _bf16(code, x, x_row, records, record_row, w, depth, start, start_row, y, y_row, rows, first, last):  # noqa: ARG001
    block = block_floats(BF16, depth)
    linear(BF16, x, x_row, w, block, depth, start, start_row, y, y_row, rows, first, last)


def _f16(code, x, x_row, records, record_row, w, depth, start, start_row, y, y_row, rows, first, last):  # noqa: ARG001
    block = block_floats(F16, depth)
    linear(F16, x, x_row, w, block, depth, start, start_row, y, y_row, rows, first, last)


def _groups(code, x, x_row, records, record_row, w, depth, start, start_row, y, y_row, rows, first, last):  # noqa: ARG001
    if code == FOUR_BITS:
        multiply(Q4, records, record_row, depth, w, start, start_row, y, y_row, rows, first, last)
    else:
        multiply(Q8, records, record_row, depth, w, start, start_row, y, y_row, rows, first, last)


OTHERS: dict[str, Callable[..., None]] = {"int8": _int8, "bf16": _bf16, "f16": _f16, "groups": _groups}
"""The products of each kind of model, besides that of float32 weights."""
FLOAT_ARGUMENTS, ARGUMENTS = 12, 14


float_product = caller(FLOAT_ARGUMENTS, kind=types.int64)
"""Call `Products.floats`; the arguments are those of `linear` without its kind."""
_other_product = caller(ARGUMENTS, kind=types.int64)


@inner
def product(address, code, x, w, depth, start, start_row, y, y_row, rows, first, last):
    """Compute column blocks `first` to `last` - 1 of rows times a packed weight, from the start values.

    `address` is a `Products`, `x` a `Factor`; strides in floats.
    """
    if code == FLOATS:
        float_product(
            address.floats, x.rows, x.row, w, depth * LANES, depth, start, start_row, y, y_row, rows, first,
            last,
        )  # fmt: skip
    else:
        _other_product(
            address.others, code, x.rows, x.row, x.records, x.record_row, w, depth, start, start_row, y,
            y_row, rows, first, last,
        )  # fmt: skip


@inner
def to_integers(x, x_row, records, record_row, depth, first, rows, step):
    """Quantise rows `first`, `first` + `step`, ... below `rows` into records, if products read records."""
    if record_row != 0:
        for r in range(first, rows, step):
            quantise_row(x + 4 * r * x_row, records + r * record_row, depth)


def _gather(e: Emitter, w: Value, count: Value, y: Value) -> None:
    """y[k] = w[16 k]: a column of a block of floats."""
    with e.loop(count, 1, []) as (k, _):
        e.store_scalar(e.load_scalar(w, e.b.mul(k, INT(LANES))), y, k)


def _gather_halves(e: Emitter, w: Value, count: Value, float16: Value, y: Value) -> None:
    """y[k] = w[16 k] of 16-bit floats: float16 where `float16` is not 0, else bfloat16."""
    with e.loop(count, 1, []) as (k, _):
        word = e.load_from(e.b.add(w, e.b.mul(k, INT(2 * LANES))), HALF_WORD, 2)
        wide = e.b.bitcast(e.b.shl(e.b.zext(word, INT32), INT32(16)), FLOAT)
        half = e.b.extract_element(e.widen_halves(e.spread(word, HALF_WORD, 4)), INT32(0))
        e.store_scalar(e.b.select(e.b.icmp_signed("==", float16, INT(0)), wide, half), y, k)


gather = kernel(_gather, [ADDRESS, COUNT, ADDRESS])
gather_halves = kernel(_gather_halves, [ADDRESS, COUNT, COUNT, ADDRESS])


@inner
def embedding_row(code, w, depth, row, column, y):
    """Read the `depth` weights of one token as floats; `row` is the stride of a matrix of rows."""
    block, lane = column // LANES, column % LANES
    if code == ROWS:
        copy_row(w + 4 * column * row, y, depth)
    elif code == FLOATS:
        gather(w + 4 * (block * depth * LANES + lane), depth, y)
    elif code == FOUR_BITS:
        dequantise_column(Q4, w, depth, column, y)
    elif code == EIGHT_BITS:
        dequantise_column(Q8, w, depth, column, y)
    else:
        gather_halves(w + 2 * (block * depth * LANES + lane), depth, ONE if code == F16S else ZERO, y)
