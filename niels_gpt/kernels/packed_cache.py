"""Keep packed weights on disk, so that a large model is packed once and mapped by every later start.

A file is named by a digest of everything that decides its bytes: the model's content, the arrays and these
sources. It holds the SHA-256 of its arrays, which is checked when it is opened; a file that fails is deleted
and written again. Files appear whole, by renaming, and several programs may share them. The least recently
used ones are deleted where all together exceed `MOST_BYTES`. The folder can be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

import numpy as np

from niels_gpt.atomic_io import atomic_write, remove_stale
from niels_gpt.kernels.cache import cache_folder, user_folder

LEAST_BYTES = 32 * 2**20
"""Smaller models are packed every time: that takes less than a tenth of a second."""
MOST_BYTES = 8 * 2**30
HEADER_BYTES = 4096
"""A page, so that the arrays are aligned as in memory of their own."""
MAGIC = b"niels-gpt packed weights 1\n"
SUFFIX = ".packed"


def packed_folder() -> Path:
    """Return the folder of packed weights."""
    return Path(user_folder()) / "packed"


def packed_path(*content: object) -> Path:
    """Return the file of packed weights that are decided by `content` and by these sources."""
    text = "\0".join(map(str, (cache_folder().name, *content)))
    return packed_folder() / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}{SUFFIX}"


def load_packed(path: Path, floats: int) -> np.ndarray | None:
    """Map (floats,) float32 from a file, or return None if it is missing or damaged."""
    found: np.ndarray | None = None
    with contextlib.suppress(OSError, ValueError):  # missing, empty, or taken away meanwhile
        with path.open("rb") as file:
            header = file.read(HEADER_BYTES)
        if path.stat().st_size == HEADER_BYTES + 4 * floats:
            mapped = np.memmap(path, np.float32, "r", HEADER_BYTES, (floats,))
            found = mapped if header == _header(mapped) else None
    with contextlib.suppress(OSError):
        if found is None:
            path.unlink(missing_ok=True)
        else:
            os.utime(path)  # used last now
    return found


def store_packed(path: Path, array: np.ndarray) -> None:
    """Write an array to a file; without the space or the right to do so, nothing is kept."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with atomic_write(path, mode=0o600) as file:
            file.write(_header(array))
            file.write(array.data)
        remove_stale(path.parent)
        _forget_oldest(path)


def _header(array: np.ndarray) -> bytes:
    return (MAGIC + hashlib.sha256(array.data).hexdigest().encode()).ljust(HEADER_BYTES, b"\0")


def _forget_oldest(newest: Path) -> None:
    """Delete the least recently used files beyond the bound; other programs may do the same meanwhile."""
    found: list[tuple[float, int, Path]] = []
    for path in newest.parent.glob(f"*{SUFFIX}"):
        with contextlib.suppress(OSError):
            status = path.stat()
            found.append((status.st_mtime, status.st_size, path))
    excess = sum(size for _, size, _ in found) - MOST_BYTES
    for _, size, path in sorted(found):
        if excess <= 0:
            break
        if path != newest:
            with contextlib.suppress(OSError):
                path.unlink()
            excess -= size
