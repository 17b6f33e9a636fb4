"""Set plain IEEE 754 floating-point modes while kernels run, and restore the previous modes afterwards.

A thread may be set to treat subnormal numbers as zero, or to round differently. torch does the former on
request, some audio and game libraries do it unasked, and a new thread inherits the modes of its creator. Sums
and products then have different bits. x86-64 keeps these modes in MXCSR, 64-bit ARM in FPCR; for
other processors nothing is done.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager

from llvmlite import ir
from numba import types
from numba.core import cgutils

from niels_gpt.kernels.jit import compiled
from niels_gpt.kernels.simd_ir import INT, INT8, INT32, Emitter, Value, kernel

X86 = platform.machine().lower() in {"x86_64", "amd64"}
ARM = platform.machine().lower() in {"aarch64", "arm64"}
# All exceptions masked, round to nearest, subnormals kept.
PLAIN_MXCSR, PLAIN_FPCR = 0x1F80, 0
VOID, POINTER = ir.VoidType(), ir.PointerType(INT8)


def _function(e: Emitter, name: str, result: ir.Type, *arguments: ir.Type) -> Value:
    known = e.b.module.globals.get(name)
    return known or ir.Function(e.b.module, ir.FunctionType(result, arguments), name)


def _mxcsr(e: Emitter) -> tuple[Value, Value]:
    """Allocate space for the register; return it as an integer and as the address that LLVM expects."""
    place = cgutils.alloca_once(e.b, INT32)
    return place, e.b.bitcast(place, POINTER)


def _set_modes(e: Emitter, modes: Value) -> None:
    if X86:
        place, address = _mxcsr(e)
        e.b.store(e.b.trunc(modes, INT32), place)
        e.b.call(_function(e, "llvm.x86.sse.ldmxcsr", VOID, POINTER), [address])
    elif ARM:
        e.b.call(_function(e, "llvm.aarch64.set.fpcr", VOID, INT), [modes])


def _plain_modes(e: Emitter) -> Value:
    """Set plain IEEE 754; return the previous modes."""
    before: Value = INT(0)
    if X86:
        place, address = _mxcsr(e)
        e.b.call(_function(e, "llvm.x86.sse.stmxcsr", VOID, POINTER), [address])
        before = e.b.zext(e.b.load(place), INT)
    elif ARM:
        before = e.b.call(_function(e, "llvm.aarch64.get.fpcr", INT), [])
    _set_modes(e, INT(PLAIN_MXCSR if X86 else PLAIN_FPCR))
    return before


plain_modes = kernel(_plain_modes, [], types.int64)
set_modes = kernel(_set_modes, [types.int64])


@compiled
def _begin():
    return plain_modes()


@compiled
def _end(modes):
    set_modes(modes)


@contextmanager
def ieee_arithmetic() -> Iterator[None]:
    """Use plain IEEE 754 on this thread within the block, for kernels that are called one by one."""
    before = _begin()
    try:
        yield
    finally:
        _end(before)
