"""Describe the processor that kernels run on: its instruction sets, and the vectors that arrays consist of.

Sixteen floats are one AVX-512 register, two AVX2 or four NEON or SSE ones; LLVM splits them as needed. The
width is part of the arithmetic only where lanes are summed across, and there the tree is written out.
"""

from __future__ import annotations

import hashlib
import os

import numpy as np
from llvmlite import binding

LANES = 16
"""Floats of a vector."""
VECTOR_BYTES = 4 * LANES
CACHE_LINE = 64


def _features() -> dict[str, bool]:
    """Return the instruction sets that Numba compiles for, by LLVM's names."""
    if not {"NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"} & os.environ.keys():
        return dict(binding.get_host_cpu_features())
    named = os.environ.get("NUMBA_CPU_FEATURES", "").split(",")
    return {feature[1:]: feature.startswith("+") for feature in named if feature}


FEATURES = _features()


def processor_digest() -> str:
    """Return a digest of everything about this processor that decides which instructions are compiled."""
    named = [os.environ.get(name, "") for name in ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES")]
    host = [binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten()]
    return hashlib.sha256("\0".join([*named, *host]).encode()).hexdigest()[:16]


def padded(count: int) -> int:
    """Return `count` rounded up to whole vectors."""
    return -(-count // LANES) * LANES


def aligned(floats: int) -> np.ndarray:
    """Allocate (floats,) float32 zeros that start on a cache line."""
    raw = np.zeros(floats + CACHE_LINE // 4, np.float32)
    start = (-raw.ctypes.data % CACHE_LINE) // 4
    return raw[start : start + floats]
