"""Build LLVM vector code from Python expressions; all kernels of this package are written with it.

An `Emitter` wraps llvmlite's builder with the few operations that the kernels need. Each is one IEEE 754
operation a lane, correctly rounded, in exactly the order written: no fast-math flag is ever set, so LLVM
may choose registers and instructions but never another result. Where a processor has no fused multiply-add,
LLVM calls the C library's, which is slow and equal. `kernel` turns an emitting function into a Numba
intrinsic, inlined where it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba import types

from niels_gpt.kernels.jit import intrinsic_of
from niels_gpt.kernels.processor import FEATURES, LANES

FLOAT, HALF = ir.FloatType(), ir.HalfType()
INT8 = ir.IntType(8)
INT32 = ir.IntType(32)
INT = ir.IntType(64)


# Addresses are in bytes, strides and counts in floats. All are signed: Numba turns a mixed sum of signed and
# unsigned integers into a float.
ADDRESS, COUNT, REAL = types.intp, types.intp, types.float32
KIND = None
"""Marks a compile-time argument: the emitting function receives its Numba type instead of a value."""

Value = Any  # an llvmlite value; llvmlite ships no types


def vector(lanes: int = LANES, element: ir.Type = FLOAT) -> ir.VectorType:
    """The LLVM type of `lanes` elements."""
    return ir.VectorType(element, lanes)


@dataclass(frozen=True, slots=True)
class Emitter:
    """A function body being written; `b` is llvmlite's builder, positioned inside it."""

    b: ir.IRBuilder

    # -- constants and memory --------------------------------------------------------------------------------

    def real(self, value: float, lanes: int = LANES) -> Value:
        """Return a float constant in every lane."""
        return ir.Constant(vector(lanes), [value] * lanes)

    def whole(self, value: int, lanes: int = LANES) -> Value:
        """Return a 32-bit integer constant in every lane."""
        return ir.Constant(vector(lanes, INT32), [value] * lanes)

    def at(self, address: Value, offset: Value | int, kind: ir.Type) -> Value:
        """Return a pointer to a `kind` at float number `offset` from `address`."""
        offset = INT(offset) if isinstance(offset, int) else offset
        base = self.b.inttoptr(address, ir.PointerType(FLOAT))
        return self.b.bitcast(self.b.gep(base, [offset]), ir.PointerType(kind))

    def load(self, address: Value, offset: Value | int = 0) -> Value:
        """Load a vector of floats, which need not be aligned to more than one float."""
        value: Value = self.b.load(self.at(address, offset, vector()))
        value.align = 4
        return value

    def store(self, value: Value, address: Value, offset: Value | int = 0) -> None:
        """Store all lanes of `value`, starting at `address[offset]`."""
        stored: Value = self.b.store(value, self.at(address, offset, value.type))
        stored.align = 4

    def load_int8(self, address: Value, offset: Value) -> Value:
        """Load sixteen 8-bit integers (the size of four floats) and convert them exactly to floats."""
        value: Value = self.b.load(self.at(address, offset, vector(element=INT8)))
        value.align = 1
        return self.b.sitofp(value, vector())

    def widen_halves(self, words: Value) -> Value:
        """Convert float16 numbers, given as a vector of 16-bit integers, to floats; exact for finite ones."""
        lanes = words.type.count
        if FEATURES.get("f16c"):
            return self.b.fpext(self.b.bitcast(words, vector(lanes, HALF)), vector(lanes))
        # Elsewhere LLVM calls a library function that may be missing.
        wide = self.b.zext(words, vector(lanes, INT32))
        sign = self.b.shl(self.b.and_(wide, self.whole(0x8000, lanes)), self.whole(16, lanes))
        size = self.b.shl(self.b.and_(wide, self.whole(0x7FFF, lanes)), self.whole(13, lanes))
        scaled = self.bits(self.mul(self.from_bits(size), self.real(2.0**112, lanes)))
        return self.from_bits(self.b.or_(scaled, sign))

    def load_scalar(self, address: Value, offset: Value | int = 0) -> Value:
        """One float."""
        return self.b.load(self.at(address, offset, FLOAT))

    def store_scalar(self, value: Value, address: Value, offset: Value | int = 0) -> None:
        """One float."""
        self.b.store(value, self.at(address, offset, FLOAT))

    def prefetch(self, address: Value, offset: Value) -> None:
        """Prefetch the cache line at `offset`, which may be outside of any array; changes no value."""
        name, pointer = "llvm.prefetch.p0", ir.PointerType(INT8)
        known = self.b.module.globals.get(name)
        kind = ir.FunctionType(ir.VoidType(), [pointer, INT32, INT32, INT32])
        function = known or ir.Function(self.b.module, kind, name)
        # For reading, with high locality, into the data cache.
        self.b.call(function, [self.at(address, offset, INT8), INT32(0), INT32(3), INT32(1)])

    def spread(self, scalar: Value, element: ir.Type = FLOAT, lanes: int = LANES) -> Value:
        """Copy a scalar to every lane."""
        undefined = ir.Constant(vector(lanes, element), ir.Undefined)
        first = self.b.insert_element(undefined, scalar, INT32(0))
        return self.b.shuffle_vector(first, undefined, self.whole(0, lanes))

    def byte_offset(self, address: Value, count: Value | int) -> Value:
        """Return the address `count` bytes after `address`."""
        return self.b.add(address, INT(count) if isinstance(count, int) else count)

    def load_from(self, address: Value, kind: ir.Type, align: int) -> Value:
        """Load a value of any type from an address in bytes that is a multiple of `align`."""
        value: Value = self.b.load(self.b.inttoptr(address, ir.PointerType(kind)))
        value.align = align
        return value

    def store_to(self, value: Value, address: Value, align: int) -> None:
        """Store a value of any type at an address in bytes that is a multiple of `align`."""
        stored: Value = self.b.store(value, self.b.inttoptr(address, ir.PointerType(value.type)))
        stored.align = align

    def call_as(self, name: str, result: ir.Type, *args: Value) -> Value:
        """Call the intrinsic `name`, of LLVM or of the processor, on values of any types."""
        known = self.b.module.globals.get(name)
        kind = ir.FunctionType(result, [arg.type for arg in args])
        return self.b.call(known or ir.Function(self.b.module, kind, name), args)

    # -- arithmetic, one rounding each -----------------------------------------------------------------------

    def call(self, name: str, *args: Value) -> Value:
        """Call LLVM's intrinsic `name` on values of one float type; llvmlite declares no vector ones."""
        kind = args[0].type
        suffix = f"v{kind.count}f32" if isinstance(kind, ir.VectorType) else "f32"
        full = f"llvm.{name}.{suffix}"
        known = self.b.module.globals.get(full)
        function = known or ir.Function(self.b.module, ir.FunctionType(kind, [kind] * len(args)), full)
        return self.b.call(function, args)

    def fma(self, x: Value, y: Value, z: Value) -> Value:
        """x * y + z, rounded once."""
        return self.call("fma", x, y, z)

    def add(self, x: Value, y: Value) -> Value:
        """x + y."""
        return self.b.fadd(x, y)

    def sub(self, x: Value, y: Value) -> Value:
        """x - y."""
        return self.b.fsub(x, y)

    def mul(self, x: Value, y: Value) -> Value:
        """x * y."""
        return self.b.fmul(x, y)

    def div(self, x: Value, y: Value) -> Value:
        """x / y."""
        return self.b.fdiv(x, y)

    def sqrt(self, x: Value) -> Value:
        """The square root."""
        return self.call("sqrt", x)

    def where(self, condition: Value, x: Value, y: Value) -> Value:
        """x in the lanes where `condition` holds, else y."""
        return self.b.select(condition, x, y)

    def less(self, x: Value, y: Value) -> Value:
        """x < y by lane, false for NaN."""
        return self.b.fcmp_ordered("<", x, y)

    def is_nan(self, x: Value) -> Value:
        """Return whether x is NaN, by lane."""
        return self.b.fcmp_unordered("uno", x, x)

    def larger(self, x: Value, y: Value) -> Value:
        """x where x > y, else y."""
        return self.where(self.less(y, x), x, y)

    def bits(self, x: Value) -> Value:
        """The lanes' bit patterns as 32-bit integers."""
        return self.b.bitcast(x, vector(x.type.count, INT32))

    def from_bits(self, x: Value) -> Value:
        """The inverse of `bits`."""
        return self.b.bitcast(x, vector(x.type.count))

    def polynomial(self, x: Value, coefficients: Sequence[float]) -> Value:
        """Horner's scheme in fused steps; `coefficients` from the highest power down."""
        result = self.real(coefficients[0])
        for coefficient in coefficients[1:]:
            result = self.fma(result, x, self.real(coefficient))
        return result

    def fold(self, x: Value, join: Callable[[Value, Value], Value]) -> Value:
        """Reduce all lanes to one float by halving: lane i with lane i + 8, then + 4, + 2 and + 1."""
        undefined = ir.Constant(x.type, ir.Undefined)
        half = LANES // 2
        while half:
            mask = [(i + half) % LANES for i in range(LANES)]
            turned = self.b.shuffle_vector(x, undefined, ir.Constant(vector(LANES, INT32), mask))
            x = join(x, turned)
            half //= 2
        return self.b.extract_element(x, INT32(0))

    # -- rows and loops --------------------------------------------------------------------------------------

    def cut(self, value: Value, first: Value, count: Value, otherwise: float) -> Value:
        """Return `value`, with `otherwise` in the lanes whose index `first` + lane is not below `count`."""
        index = ir.Constant(vector(LANES, INT), list(range(LANES)))
        room = self.spread(self.b.sub(count, first), INT)
        return self.where(self.b.icmp_signed("<", index, room), value, self.real(otherwise))

    @contextmanager
    def loop(self, stop: Value, step: int, carried: list[Value]) -> Iterator[tuple[Value, list[Value]]]:
        """Emit `for i in range(0, stop, step)` with values carried from one iteration to the next.

        Yields i and the carried values; the body puts their next values into that list. After the block,
        `carried` holds the values after the last iteration (the initial ones if there was none).
        """
        b = self.b
        entry = b.block
        head, body, done = (b.append_basic_block(name) for name in ("head", "body", "done"))
        b.branch(head)
        b.position_at_end(head)
        i = b.phi(INT)
        i.add_incoming(INT(0), entry)
        phis = [b.phi(value.type) for value in carried]
        for phi, value in zip(phis, carried, strict=True):
            phi.add_incoming(value, entry)
        b.cbranch(b.icmp_signed("<", i, stop), body, done)
        b.position_at_end(body)
        current = list(phis)
        yield i, current
        i.add_incoming(b.add(i, INT(step)), b.block)
        for phi, value in zip(phis, current, strict=True):
            phi.add_incoming(value, b.block)
        b.branch(head)
        b.position_at_end(done)
        carried[:] = phis

    @contextmanager
    def vectors(self, count: Value) -> Iterator[Value]:
        """Loop over the offsets 0, 16, 32, ... below `count`."""
        with self.loop(count, LANES, []) as (i, _):
            yield i


def kernel(
    emit: Callable[..., Value | None], arguments: Sequence[types.Type | None], result: types.Type = types.void
) -> Any:
    """Return a decorator that makes `emit(Emitter, *values)` a Numba intrinsic with the given types."""

    def typed(_typing_context: Any, *given: Any) -> Any:
        def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            values = [given[i] if kind is KIND else args[i] for i, kind in enumerate(arguments)]
            value = emit(Emitter(builder), *values)
            return context.get_dummy_value() if value is None else value

        return result(*(given[i] if kind is KIND else kind for i, kind in enumerate(arguments))), codegen

    typed.__name__ = emit.__name__.strip("_")
    return intrinsic_of(typed, len(arguments))
