"""Synchronize the threads of one step with a barrier of three 64-bit integers.

They are a counter, a generation and a flag. The last thread to arrive starts the next generation; the others
wait for it. They spin for some microseconds, which a step of a small model can afford, then yield the
processor between checks, so that a busy machine makes progress. The flag releases all of them permanently
when one thread has failed and will not arrive.
"""

from __future__ import annotations

import sys

import numpy as np
from llvmlite import ir
from numba import types

from niels_gpt.kernels.jit import compiled
from niels_gpt.kernels.simd_ir import ADDRESS, INT, INT32, Emitter, Value, kernel

SPINS_BEFORE_YIELD = 2000


def _pointer(e: Emitter, address: Value) -> Value:
    return e.b.inttoptr(address, ir.PointerType(INT))


def _fetch_add(e: Emitter, address: Value, amount: Value) -> Value:
    return e.b.atomic_rmw("add", _pointer(e, address), amount, "seq_cst")


def _atomic_load(e: Emitter, address: Value) -> Value:
    return e.b.load_atomic(_pointer(e, address), "seq_cst", 8)


def _atomic_store(e: Emitter, address: Value, value: Value) -> None:
    e.b.store_atomic(value, _pointer(e, address), "seq_cst", 8)


def _yield_processor(e: Emitter) -> None:
    if sys.platform == "win32":
        return
    name = "sched_yield"
    known = e.b.module.globals.get(name)
    e.b.call(known or ir.Function(e.b.module, ir.FunctionType(INT32, []), name), [])


fetch_add = kernel(_fetch_add, [ADDRESS, types.int64], types.int64)
atomic_load = kernel(_atomic_load, [ADDRESS], types.int64)
atomic_store = kernel(_atomic_store, [ADDRESS, types.int64])
yield_processor = kernel(_yield_processor, [])


@compiled
def wait(barrier, parts):
    """Wait until all `parts` threads are here, or the barrier is released."""
    if parts == 1:
        return
    generation_at = barrier + 64
    generation = atomic_load(generation_at)
    if fetch_add(barrier, np.int64(1)) == parts - 1:
        atomic_store(barrier, np.int64(0))
        atomic_store(generation_at, generation + np.int64(1))
        return
    spins = 0
    while atomic_load(generation_at) == generation and atomic_load(barrier + 72) == 0:
        spins += 1
        if spins > SPINS_BEFORE_YIELD:
            yield_processor()
