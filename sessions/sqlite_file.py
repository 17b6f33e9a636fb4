"""The file of a SQLite store: its creation, its permissions and its copies.

A new store is created next to its final place and linked there when complete, so that no other process and
no crash ever meets half a store. The file is never opened here except through SQLite: closing any other
handle on it would drop the locks that this process holds.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import tempfile
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from sessions.errors import InvalidValue, NotAStore, StoreUnavailable

_PRIVATE_FILE, _PRIVATE_FOLDER = 0o600, 0o700
_SMALLEST_DATABASE = 512  # bytes: one page of the smallest size that SQLite has
_FOLDERS_CAN_BE_SYNCED = os.name != "nt"  # Windows opens no folder, and has no need to
_PAGES_AT_ONCE = 1000  # of a copy, while writers wait: some milliseconds
_RESTARTS = 8  # of a copy, before it makes the writers wait
_PAUSE_SECONDS = 0.02  # before a copy tries again to read what a writer has locked


def is_there(path: Path) -> bool:
    """Return whether a file that may be a store lies at ``path``; refuse one that certainly is not.

    StoreUnavailable for a folder or a device, NotAStore for a file too short to be one: SQLite takes such a
    file for an empty database and writes over it.
    """
    if path.is_dir():
        raise StoreUnavailable(f"the session store {path} is a folder: give the path of a file in it")
    if not path.exists():
        return False
    if not path.is_file():
        raise StoreUnavailable(f"the session store {path} is not a file: give the path of one")
    size = path.stat().st_size
    if size < _SMALLEST_DATABASE:
        raise NotAStore(
            f"the session store {path} is a file of {size} bytes, too short for one; it was left untouched: "
            "remove it, or give another path"
        )
    return True


@contextmanager
def new_file(path: Path) -> Generator[Path, None, None]:
    """Yield the path of an empty private file, which becomes ``path`` in one step at the end.

    If another process was faster, its file stays and this one is removed, as after an error. Missing folders
    are created private; folders that exist keep their mode.
    """
    for folder in reversed([each for each in path.parents if not each.exists()]):
        folder.mkdir(mode=_PRIVATE_FOLDER, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.new")
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, _PRIVATE_FILE))
    try:
        yield temporary
        publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    make_entry_durable(path.parent)


def publish(temporary: Path, path: Path, *, link: Callable[[Path, Path], None] = os.link) -> None:
    """Move a complete file to its place in one step, unless something is there already.

    A link does both at once. Where the file system has no links (``link`` raises OSError), the file is moved
    while the folder is locked against other programs that do the same: a move would replace what is there.
    """
    try:
        link(temporary, path)
    except FileExistsError:
        return
    except OSError:
        with _locked(path.parent):
            if not path.exists():
                temporary.rename(path)


@contextmanager
def _locked(folder: Path) -> Generator[None, None, None]:
    """Hold the lock of a folder, where the system has such locks."""
    try:
        import fcntl  # noqa: PLC0415 - Windows has none; a rename there never replaces a file
    except ModuleNotFoundError:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def back_up(path: Path, label: str) -> Path:
    """Copy the committed state of the store at ``path`` to a private file next to it, and return its path.

    Safe while a connection holds the write lock. ``label`` becomes part of the copy's name.
    """
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    target = path.with_name(f"{path.name}.{label}-{moment}-{secrets.token_hex(3)}.backup")
    copy(path, target)
    return target


def copy(path: Path, target: Path) -> None:
    """Copy the committed state of the store at ``path`` to a new private file, complete or not at all.

    Writers are let in between the steps of the copy. Raises InvalidValue where ``target`` exists.
    """
    if target.exists() or target.is_symlink():
        raise InvalidValue(f"{target} is there already: give the backup another path")
    with (
        new_file(target) as unfinished,
        closing(sqlite3.connect(path)) as source,
        closing(sqlite3.connect(unfinished)) as copied,
    ):
        _copy_pages(source, copied)


def _copy_pages(source: sqlite3.Connection, target: sqlite3.Connection) -> None:
    """Copy in steps that writers can interrupt; after several interruptions at once, while they wait."""
    restarts, left = 0, None

    def count_restarts(_status: int, remaining: int, _total: int) -> None:
        nonlocal restarts, left
        # A commit of another program makes SQLite start the copy again.
        restarts += left is not None and remaining >= left
        left = remaining
        if restarts > _RESTARTS:
            raise _TooManyRestarts

    try:
        source.backup(target, pages=_PAGES_AT_ONCE, progress=count_restarts, sleep=_PAUSE_SECONDS)
    except _TooManyRestarts:
        source.backup(target)


class _TooManyRestarts(Exception):  # noqa: N818 - leaves SQLite's copy, and no more
    """Writers are faster than the copy."""


@contextmanager
def private_folder(path: Path) -> Generator[Path, None, None]:
    """Yield a private folder for a copy of the file at ``path``: next to it, or else a temporary one.

    It is removed at the end.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent)
    except OSError:
        folder = tempfile.TemporaryDirectory(prefix="niels-gpt-")
    with folder as name:
        yield Path(name)


def make_entry_durable(folder: Path) -> None:
    """Sync a folder, so that a file that was created, moved or removed in it stays so after a power cut."""
    # SQLite syncs the bytes of a file; its name in the folder is a separate write.
    if not _FOLDERS_CAN_BE_SYNCED:
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
