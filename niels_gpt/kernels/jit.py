"""Compile kernels: never with fast-math, always without the GIL, kept on disk between starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import binding
from numba.core import config as numba_config

from niels_gpt.kernels.cache import cache_folder, claim_folder

config: Any = numba_config  # its settings are created at import time, so type checkers do not know them

# Numba refuses to define a cached kernel if the cache folder is not writable.
_IS_STORED = claim_folder()

# A literal has its own Numba type, so a kernel called with one would be compiled for that literal only.
ZERO, ONE = np.int64(0), np.int64(1)


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a kernel at its first call; for module-level functions only (others are not found on disk)."""
    return numba.njit(cache=_IS_STORED, nogil=True, error_model="numpy", fastmath=False)(function)


def inlined(function: Callable[..., Any]) -> Any:
    """Inline a kernel into its callers: with few callers this avoids a separate compilation."""
    return numba.njit(inline="always", nogil=True, error_model="numpy", fastmath=False)(function)


def _features() -> dict[str, bool]:
    """Return the instruction sets that Numba compiles for, by LLVM's names."""
    if config.CPU_NAME is None and config.CPU_FEATURES is None:
        return dict(binding.get_host_cpu_features())
    named = (config.CPU_FEATURES or "").split(",")
    return {feature[1:]: feature.startswith("+") for feature in named if feature}


FEATURES = _features()

# Read by Numba when a function is decorated, so it is set before the first kernel is imported.
config.CACHE_DIR = str(cache_folder())
