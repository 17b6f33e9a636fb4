"""Operate on one row of activations at a time: norms, activations, rotary positions, softmax.

Sums over a row are sixteen lane sums (lane i takes elements i, i + 16, ... in order) folded by halves: lane i
with lane i + 8, then + 4, + 2, + 1. Elements beyond the row's end are ignored. Addresses in bytes,
counts in floats. A row may be read and written up to the end of its last vector; the padding is not used.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from niels_gpt.kernels.math import exp, gelu, gelu_tanh, silu, tanh
from niels_gpt.kernels.processor import LANES
from niels_gpt.kernels.simd_ir import ADDRESS, COUNT, INT, INT32, REAL, Emitter, Value, kernel, vector

INFINITY = float("inf")


def _row_sum(e: Emitter, count: Value, term: Callable[[Value], Value]) -> Value:
    lanes = [e.real(0.0)]
    with e.loop(count, LANES, lanes) as (i, partial):
        partial[0] = e.add(partial[0], e.cut(term(i), i, count, 0.0))
    return e.fold(lanes[0], e.add)


def _layer_norm(
    e: Emitter, x: Value, scale: Value, shift: Value, y: Value, count: Value, size: Value, eps: Value
) -> None:
    """y = fma((x - mean) / sqrt(mean of (x - mean)**2 + eps), scale, shift); `size` is a float count."""
    mean = e.spread(e.div(_row_sum(e, count, lambda i: e.load(x, i)), size))

    def deviation(i: Value) -> Value:
        return e.sub(e.load(x, i), mean)

    variance = e.div(_row_sum(e, count, lambda i: e.mul(deviation(i), deviation(i))), size)
    root = e.spread(e.sqrt(e.add(variance, eps)))
    with e.vectors(count) as i:
        e.store(e.fma(e.div(deviation(i), root), e.load(scale, i), e.load(shift, i)), y, i)


def _rms_norm(e: Emitter, x: Value, scale: Value, y: Value, count: Value, size: Value, eps: Value) -> None:
    """y = x / sqrt(mean of x**2 + eps) * scale; `size` is the count as a float."""
    square = e.div(_row_sum(e, count, lambda i: e.mul(e.load(x, i), e.load(x, i))), size)
    root = e.spread(e.sqrt(e.add(square, eps)))
    with e.vectors(count) as i:
        e.store(e.mul(e.div(e.load(x, i), root), e.load(scale, i)), y, i)


def _gelu(e: Emitter, x: Value, count: Value) -> None:
    """x = gelu(x)."""
    with e.vectors(count) as i:
        e.store(gelu(e, e.load(x, i)), x, i)


def _swiglu(e: Emitter, gate: Value, x: Value, count: Value) -> None:
    """x = silu(gate) * x."""
    with e.vectors(count) as i:
        e.store(e.mul(silu(e, e.load(gate, i)), e.load(x, i)), x, i)


def _gelu_tanh(e: Emitter, x: Value, count: Value) -> None:
    """x = gelu(x) in its form with tanh."""
    with e.vectors(count) as i:
        e.store(gelu_tanh(e, e.load(x, i)), x, i)


def _silu(e: Emitter, x: Value, count: Value) -> None:
    """x = silu(x)."""
    with e.vectors(count) as i:
        e.store(silu(e, e.load(x, i)), x, i)


def _positive_square(e: Emitter, x: Value, count: Value) -> None:
    """x = relu(x)**2."""
    with e.vectors(count) as i:
        value = _positive(e, e.load(x, i))
        e.store(e.mul(value, value), x, i)


def _multiply(e: Emitter, x: Value, y: Value, count: Value) -> None:
    """y = x * y."""
    with e.vectors(count) as i:
        e.store(e.mul(e.load(x, i), e.load(y, i)), y, i)


def _add_scaled(e: Emitter, x: Value, y: Value, count: Value, factor: Value) -> None:
    """y = fma(x, factor, y), up to `count` alone."""
    with e.vectors(count) as i:
        old = e.load(y, i)
        e.store(e.where(_inside(e, i, count), e.fma(e.load(x, i), e.spread(factor), old), old), y, i)


def _scale(e: Emitter, x: Value, count: Value, factor: Value) -> None:
    """x = x * factor, up to `count` alone."""
    with e.vectors(count) as i:
        old = e.load(x, i)
        e.store(e.where(_inside(e, i, count), e.mul(old, e.spread(factor)), old), x, i)


def _fill(e: Emitter, x: Value, count: Value, value: Value) -> None:
    """x = value, up to `count` alone."""
    with e.vectors(count) as i:
        e.store(e.where(_inside(e, i, count), e.spread(value), e.load(x, i)), x, i)


def _put(e: Emitter, x: Value, y: Value, count: Value) -> None:
    """y = x, up to `count` alone."""
    with e.vectors(count) as i:
        e.store(e.where(_inside(e, i, count), e.load(x, i), e.load(y, i)), y, i)


def _cap(e: Emitter, x: Value, count: Value, most: Value) -> None:
    """x = tanh(x / most) * most."""
    with e.vectors(count) as i:
        e.store(e.mul(tanh(e, e.div(e.load(x, i), e.spread(most))), e.spread(most)), x, i)


def _positive(e: Emitter, x: Value) -> Value:
    """Return x where it is above 0 or NaN, else 0."""
    return e.where(e.b.fcmp_unordered(">", x, e.real(0.0)), x, e.real(0.0))


def _relu(e: Emitter, x: Value, count: Value) -> None:
    """x = relu(x)."""
    with e.vectors(count) as i:
        e.store(_positive(e, e.load(x, i)), x, i)


def _gate(e: Emitter, gate: Value, x: Value, count: Value) -> None:
    """x = gate * relu(x)."""
    with e.vectors(count) as i:
        e.store(e.mul(e.load(gate, i), _positive(e, e.load(x, i))), x, i)


def _clear(e: Emitter, x: Value, count: Value) -> None:
    """x = 0."""
    with e.vectors(count) as i:
        e.store(e.real(0.0), x, i)


def _add(e: Emitter, x: Value, y: Value, count: Value) -> None:
    """y = y + x."""
    with e.vectors(count) as i:
        e.store(e.add(e.load(y, i), e.load(x, i)), y, i)


def _copy(e: Emitter, x: Value, y: Value, count: Value) -> None:
    """y = x, and zeros to the end of the last vector."""
    with e.vectors(count) as i:
        e.store(e.cut(e.load(x, i), i, count, 0.0), y, i)


def _scatter(e: Emitter, x: Value, y: Value, count: Value, stride: Value) -> None:
    """y[i * stride] = x[i]."""
    with e.loop(count, 1, []) as (i, _):
        e.store_scalar(e.load_scalar(x, i), y, e.b.mul(i, stride))


def _scatter_vectors(e: Emitter, x: Value, y: Value, count: Value, stride: Value) -> None:
    """Store vector number i of x at y[i * stride], with zeros in the lanes beyond `count`."""
    with e.vectors(count) as i:
        e.store(e.cut(e.load(x, i), i, count, 0.0), y, e.b.mul(e.b.sdiv(i, INT(LANES)), stride))


def _rotate(
    e: Emitter, x: Value, cosine: Value, sine: Value, count: Value, period: Value, factor: Value
) -> None:
    """x = (x rotated by its position) * factor, in pairs (2 i, 2 i + 1).

    The tables repeat after `period` floats. Even lanes are fma(x0, cos, x1 * -sin), odd ones
    fma(x1, cos, x0 * sin). The table of sines holds the signs.
    """
    swap = ir.Constant(vector(LANES, INT32), [i ^ 1 for i in range(LANES)])
    undefined = ir.Constant(vector(), ir.Undefined)
    with e.vectors(count) as i:
        at = e.b.srem(i, period)
        value = e.load(x, i)
        crossed = e.mul(e.b.shuffle_vector(value, undefined, swap), e.load(sine, at))
        turned = e.mul(e.fma(value, e.load(cosine, at), crossed), e.spread(factor))
        # The next part of the row begins at `count` and must not be changed.
        e.store(e.where(_inside(e, i, count), turned, value), x, i)


def _inside(e: Emitter, first: Value, count: Value) -> Value:
    return e.b.fcmp_ordered("==", e.cut(e.real(1.0), first, count, 0.0), e.real(1.0))


def _largest(e: Emitter, x: Value, count: Value) -> Value:
    """Return the largest of x[:count]; NaN is ignored unless there is nothing else."""
    lanes = [e.real(-INFINITY)]
    with e.loop(count, LANES, lanes) as (i, best):
        best[0] = e.larger(e.cut(e.load(x, i), i, count, -INFINITY), best[0])
    return e.fold(lanes[0], e.larger)


def _exp_shifted(e: Emitter, x: Value, y: Value, count: Value, shift: Value, total: Value) -> None:
    """y = exp(x - shift), 0 beyond `count`; the sum of y goes to `total`."""
    lanes = [e.real(0.0)]
    with e.loop(count, LANES, lanes) as (i, partial):
        value = e.cut(exp(e, e.sub(e.load(x, i), e.spread(shift))), i, count, 0.0)
        e.store(value, y, i)
        partial[0] = e.add(partial[0], value)
    e.store_scalar(e.fold(lanes[0], e.add), total)


def _divide(e: Emitter, x: Value, count: Value, divisor: Value) -> None:
    """x = x / the float at `divisor`."""
    spread = e.spread(e.load_scalar(divisor))
    with e.vectors(count) as i:
        e.store(e.div(e.load(x, i), spread), x, i)


def _spoiled(e: Emitter, x: Value, count: Value) -> Value:
    """Return 0 if all of x[:count] are finite, else NaN: the sum of x - x in any order is one of the two."""
    return _row_sum(e, count, lambda i: e.sub(e.load(x, i), e.load(x, i)))


layer_norm_row = kernel(_layer_norm, [ADDRESS, ADDRESS, ADDRESS, ADDRESS, COUNT, REAL, REAL])
rms_norm_row = kernel(_rms_norm, [ADDRESS, ADDRESS, ADDRESS, COUNT, REAL, REAL])
gelu_row = kernel(_gelu, [ADDRESS, COUNT])
swiglu_row = kernel(_swiglu, [ADDRESS, ADDRESS, COUNT])
gelu_tanh_row = kernel(_gelu_tanh, [ADDRESS, COUNT])
silu_row = kernel(_silu, [ADDRESS, COUNT])
positive_square_row = kernel(_positive_square, [ADDRESS, COUNT])
multiply_row = kernel(_multiply, [ADDRESS, ADDRESS, COUNT])
add_scaled_row = kernel(_add_scaled, [ADDRESS, ADDRESS, COUNT, REAL])
scale_row = kernel(_scale, [ADDRESS, COUNT, REAL])
fill_row = kernel(_fill, [ADDRESS, COUNT, REAL])
put_row = kernel(_put, [ADDRESS, ADDRESS, COUNT])
cap_row = kernel(_cap, [ADDRESS, COUNT, REAL])
relu_row = kernel(_relu, [ADDRESS, COUNT])
gate_row = kernel(_gate, [ADDRESS, ADDRESS, COUNT])
clear_row = kernel(_clear, [ADDRESS, COUNT])
add_row = kernel(_add, [ADDRESS, ADDRESS, COUNT])
copy_row = kernel(_copy, [ADDRESS, ADDRESS, COUNT])
scatter_row = kernel(_scatter, [ADDRESS, ADDRESS, COUNT, COUNT])
scatter_vectors = kernel(_scatter_vectors, [ADDRESS, ADDRESS, COUNT, COUNT])
rotate_row = kernel(_rotate, [ADDRESS, ADDRESS, ADDRESS, COUNT, COUNT, REAL])
largest_in_row = kernel(_largest, [ADDRESS, COUNT], REAL)
exp_row = kernel(_exp_shifted, [ADDRESS, ADDRESS, COUNT, REAL, ADDRESS])
divide_row = kernel(_divide, [ADDRESS, COUNT, ADDRESS])
spoiled_row = kernel(_spoiled, [ADDRESS, COUNT], REAL)
