"""Files that appear whole or not at all, and the traces of writers that were killed.

The bytes go to `.NAME.PID.tmp` beside the file and take its name at the end.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_TEMPORARY = re.compile(r"\..+\.(?P<pid>[0-9]+)\.tmp")


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` when the block ends, and vanishes when it fails.

    `durable`: bytes and name reach the disk before the block is left.
    """
    # The same folder, so that the rename stays on one file system; the process id keeps two writers apart.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    if durable and os.name == "posix":  # other systems cannot open folders
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def remove_stale(folder: Path) -> list[Path]:
    """Remove what killed writers left in a folder, and return it; files of living processes stay."""
    stale: list[Path] = []
    for path in sorted(folder.glob(".*.tmp")):
        found = _TEMPORARY.fullmatch(path.name)
        if found is not None and not _is_alive(int(found["pid"])):
            path.unlink(missing_ok=True)
            stale.append(path)
    return stale


def _is_alive(pid: int) -> bool:
    if os.name != "posix":  # where a signal 0 would end the process instead of asking for it
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
