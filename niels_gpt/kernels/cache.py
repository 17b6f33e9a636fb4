"""Manage the folder of compiled kernels, kept between starts.

Numba decides by one source file's date whether a stored kernel is still valid, and does not notice a change
in a file that was inlined into it. So the folder's name holds a hash over all sources of the package and the
compiler's versions: different sources, different folder. Within it Numba keeps kernels by the package's path.
The parent folder may be shared with other programs (NUMBA_CACHE_DIR), so a folder is deleted only if it has
the marker file of this package. Importing this module imports nothing heavy, so a program can
check before it has to wait.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
from functools import cache
from importlib.metadata import version
from pathlib import Path

VERSIONS_KEPT = 8  # several checkouts and installations share the parent folder
MARKER = "compiled kernels of niels-gpt"
"""The marker file in every folder of this package; its date is the time of the last use."""
_PACKAGE = Path(__file__).resolve().parent
_NAME = re.compile("[0-9a-f]{16}")


def cache_folder() -> Path:
    """Return the folder of these sources' compiled kernels; its parent is NUMBA_CACHE_DIR if that is set."""
    parent = os.environ.get("NUMBA_CACHE_DIR") or user_folder()
    return Path(parent) / "kernels" / _sources_digest()


@cache
def _sources_digest() -> str:
    digest = hashlib.sha256(f"{version('numba')} {version('llvmlite')}".encode())
    for path in sorted(_PACKAGE.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def user_folder() -> str:
    """Return the user's folder for what can be made again."""
    try:
        import platformdirs  # noqa: PLC0415 - it may be missing where only the kernels are used, see bench/cuda.py
    except ImportError:
        return str(Path(tempfile.gettempdir()) / "niels-gpt")
    return platformdirs.user_cache_dir("niels-gpt", appauthor=False)


def claim_folder() -> bool:
    """Create and mark the folder; return whether compiled kernels can be stored in it."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARKER).touch()
    except OSError:
        return False
    return True


def forget_other_versions() -> None:
    """Delete the folders of other versions of these sources, except for the most recently used.

    Other programs may do the same at the same time.
    """
    own = cache_folder()
    others: list[tuple[float, Path]] = []
    for marker in own.parent.glob(f"*/{MARKER}"):
        if marker.parent != own and _NAME.fullmatch(marker.parent.name):
            with contextlib.suppress(OSError):
                others.append((marker.stat().st_mtime, marker.parent))
    for _, folder in sorted(others)[: 1 - VERSIONS_KEPT]:
        shutil.rmtree(folder, ignore_errors=True)
