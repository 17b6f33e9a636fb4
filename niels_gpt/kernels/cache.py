"""Where compiled kernels are kept between starts.

Numba decides by one source file's date whether a stored kernel still fits, and does not see that a file which
was inlined into it has changed. So the folder's name holds a hash over all sources of the package and the
compiler's versions: another source, another folder. Imports nothing heavy: a program can ask before it waits.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from importlib.metadata import version
from pathlib import Path

import platformdirs

from niels_gpt.kernels import WeightForm

VERSIONS_KEPT = 3


def cache_folder() -> Path:
    """The folder of these sources' compiled kernels; NUMBA_CACHE_DIR, where set, is its parent."""
    parent = os.environ.get("NUMBA_CACHE_DIR") or platformdirs.user_cache_dir("niels-gpt", appauthor=False)
    digest = hashlib.sha256(f"{version('numba')} {version('llvmlite')}".encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return Path(parent) / "kernels" / digest.hexdigest()[:16]


def is_prepared(form: WeightForm = "float32") -> bool:
    """Whether all kernels for such weights were compiled before, so that a start need not wait for it."""
    return _mark(form).is_file()


def mark_prepared(form: WeightForm) -> None:
    """Remember that they are; where nothing can be stored, the next start compiles again."""
    with contextlib.suppress(OSError):
        _mark(form).touch()


def _mark(form: WeightForm) -> Path:
    return cache_folder() / f"{form} is prepared"


def forget_other_versions() -> None:
    """Delete what other versions of these sources left behind, apart from the newest few."""
    own = cache_folder()
    others = [path for path in own.parent.glob("*") if path != own]
    for path in sorted(others, key=lambda path: path.stat().st_mtime)[: 1 - VERSIONS_KEPT]:
        shutil.rmtree(path, ignore_errors=True)
