"""What the benchmarks share: the machine's facts, its measured limits, and tables.

The limits are measured, not looked up: how fast a plain loop reads as many bytes as a step has to read
(from whichever cache holds them), and how many floating-point operations a tile of fused multiply-adds, all
in registers, does a second. A limit is the best that was seen, since whatever disturbs can only slow it
down.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import numpy as np
from numba import types

from niels_gpt.kernels import KERNEL_VERSION
from niels_gpt.kernels.jit import compiled
from niels_gpt.kernels.linear import WIDE
from niels_gpt.kernels.processor import LANES, aligned
from niels_gpt.kernels.simd_ir import ADDRESS, COUNT, INT, REAL, Emitter, Value, kernel

READS = 8  # vectors read a turn
CHAINS = 12 if WIDE else 6  # enough of them to hide the latency, few enough for the registers
LIMIT_SECONDS, LIMIT_RUNS = 0.02, 3  # of one measurement, which is repeated all through a benchmark


def _sum(e: Emitter, x: Value, turns: Value, apart: Value, step: Value) -> Value:
    """The sum of READS vectors a turn, `apart` floats from each other; they move on by `step` floats."""
    sums = [e.real(0.0) for _ in range(READS)]
    with e.loop(turns, 1, sums) as (turn, chain):
        for n in range(READS):
            at = e.b.add(e.b.mul(turn, step), e.b.mul(INT(n), apart))
            chain[n] = e.add(chain[n], e.load(x, at))
    return _fold(e, sums)


def _multiply_add(e: Emitter, factor: Value, turns: Value) -> Value:
    """CHAINS chains of `turns` fused multiply-adds each."""
    spread = e.spread(factor)
    sums = [e.real(float(n)) for n in range(CHAINS)]
    with e.loop(turns, 1, sums) as (_, chain):
        for n in range(CHAINS):
            chain[n] = e.fma(chain[n], spread, spread)
    return _fold(e, sums)


def _fold(e: Emitter, sums: Sequence[Value]) -> Value:
    total = sums[0]
    for value in sums[1:]:
        total = e.add(total, value)
    return e.fold(total, e.add)


sum_kernel = kernel(_sum, [ADDRESS, COUNT, COUNT, COUNT], types.float32)
multiply_add_kernel = kernel(_multiply_add, [REAL, COUNT], types.float32)


@compiled
def _read(address: int, turns: int, apart: int, step: int, times: int) -> float:
    total = np.float32(0.0)
    for _ in range(times):
        total += sum_kernel(address, turns, apart, step)
    return float(total)


@compiled
def _compute(turns: int, times: int) -> float:
    total = np.float32(0.0)
    for _ in range(times):
        total += multiply_add_kernel(np.float32(0.5), turns)
    return float(total)


def read_bandwidth(size: int, threads: int) -> float:
    """Bytes a second at which `threads` together read an array of `size` bytes over and over.

    Each reads a part of its own, from front to back or in READS places side by side; the faster way counts.
    """
    turns = max(1, size // (4 * LANES * READS * threads))
    part = turns * LANES * READS
    array = aligned(part * threads)
    array[:] = 1.0  # fresh zeros are one and the same page of memory
    at = [array.ctypes.data + 4 * part * i for i in range(threads)]
    ways = (LANES, LANES * READS), (turns * LANES, LANES)
    return array.nbytes / min(
        _fastest(lambda i, times, way=way: _read(at[i], turns, *way, times), threads) for way in ways
    )


def peak(threads: int) -> float:
    """Floating-point operations a second that `threads` reach on registers alone; two a multiply-add."""
    turns = 4096
    return 2.0 * LANES * CHAINS * turns * threads / _fastest(lambda _, times: _compute(turns, times), threads)


def _fastest(work: Callable[[int, int], object], threads: int) -> float:
    """Seconds of work(thread number, 1) on all threads at once: the best of a few runs of many times."""
    with ThreadPoolExecutor(threads) as pool:

        def seconds(times: int) -> float:
            began = time.perf_counter()
            for future in [pool.submit(work, i, times) for i in range(threads)]:
                future.result()
            return time.perf_counter() - began

        seconds(1)  # compiles it
        times = 1
        while (took := seconds(times)) < LIMIT_SECONDS:
            times = max(2 * times, int(times * LIMIT_SECONDS / max(took, 1e-6)) + 1)
        return min(seconds(times) for _ in range(LIMIT_RUNS)) / times


def processor() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def caches() -> str:
    """Sizes of the first core's caches, where the system tells them."""
    folders = sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"))

    def word(folder: Path, name: str) -> str:
        return (folder / name).read_text(encoding="utf-8").strip()

    data = [folder for folder in folders if word(folder, "type") != "Instruction"]
    return ", ".join(f"L{word(folder, 'level')} {word(folder, 'size')}" for folder in data)


def facts() -> dict[str, str]:
    """What a reader needs to know of the machine and of the versions."""
    versions = {name: metadata.version(name) for name in ("torch", "numba", "numpy")}
    return {
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "caches": caches() or "unknown",
        "vectors": "512 bits" if WIDE else "256 bits or fewer",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **versions,
        "kernel version": str(KERNEL_VERSION),
    }


def load() -> str:
    """The load average of the last minute, where the system tells it."""
    return f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "unknown"


def plural(count: int, noun: str) -> str:
    """A count with its noun."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
