"""How kernels are compiled: never with fast-math, always without the GIL, kept on disk between starts.

Numba decides by one source file's date whether a stored kernel still fits, and does not see that a file it
was inlined from has changed. So the folder's name holds a hash over all sources of the package and the
compiler's versions: another source, another folder. Knows nothing about what is computed.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import numba
import platformdirs
from numba.core import config as numba_config

config: Any = numba_config  # its settings are made at import time, which no type checker sees


def _fingerprint() -> str:
    sources = sorted(Path(__file__).parent.glob("*.py"))
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    for path in sources:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def cache_folder() -> Path:
    """The folder of the compiled kernels; NUMBA_CACHE_DIR, where set, is its parent."""
    parent = config.CACHE_DIR or platformdirs.user_cache_dir("niels-gpt", appauthor=False)
    return Path(parent) / "kernels" / _fingerprint()


def forget_other_versions() -> None:
    """Delete what other versions of these sources left in the cache, apart from the newest three."""
    own = cache_folder()
    others = [path for path in own.parent.glob("*") if path != own]
    for path in sorted(others, key=lambda p: p.stat().st_mtime)[:-3]:
        shutil.rmtree(path, ignore_errors=True)


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a kernel at its first call; module-level functions only, or the stored copy is never found."""
    return numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=False)(function)


# Read by Numba when a function is decorated, so it stands before the first kernel.
config.CACHE_DIR = str(cache_folder())
