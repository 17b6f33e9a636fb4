"""Compile kernels: never with fast-math, always without the GIL, kept on disk between starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import binding
from numba.core import config as numba_config

from niels_gpt.kernels.cache import cache_folder, claim_folder

config: Any = numba_config  # its settings are made at import time, which no type checker sees

# Numba refuses to define a kernel that it is told to store where it cannot.
_IS_STORED = claim_folder()

# A literal has a Numba type of its own, so a kernel that is called with one would be compiled for it alone.
ZERO, ONE = np.int64(0), np.int64(1)


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a kernel at its first call; module-level functions only, or the stored copy is never found."""
    return numba.njit(cache=_IS_STORED, nogil=True, error_model="numpy", fastmath=False)(function)


def inlined(function: Callable[..., Any]) -> Any:
    """Make a kernel part of those that call it: one with few callers needs no compilation of its own."""
    return numba.njit(inline="always", nogil=True, error_model="numpy", fastmath=False)(function)


def _features() -> dict[str, bool]:
    """The instructions that Numba compiles for, by LLVM's names."""
    if config.CPU_NAME is None and config.CPU_FEATURES is None:
        return dict(binding.get_host_cpu_features())
    named = (config.CPU_FEATURES or "").split(",")
    return {feature[1:]: feature.startswith("+") for feature in named if feature}


FEATURES = _features()

# Read by Numba when a function is decorated, so it is set before the first kernel is imported.
config.CACHE_DIR = str(cache_folder())
