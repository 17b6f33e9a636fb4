"""The file under a SQLite store: where it lies, who may read it, how it appears, and its backup.

A new store is made beside its final place and linked there when complete, so that no other process and no
crash ever meets half a store, and an empty file is never one of ours. The file is never opened here except
through SQLite: closing any other handle on it would drop the locks that this process holds.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import platformdirs

from sessions.errors import InvalidValue, NotAStore, StoreUnavailable

_PRIVATE_FILE, _PRIVATE_FOLDER = 0o600, 0o700
_SMALLEST_DATABASE = 512  # bytes: one page of the smallest size that SQLite has


def default_path() -> Path:
    """Return where a user's sessions live unless told otherwise (on Linux below XDG_DATA_HOME)."""
    return platformdirs.user_data_path("niels-gpt", appauthor=False) / "sessions.db"


def is_there(path: Path) -> bool:
    """Tell whether a file that may be a store lies at ``path``; refuse what certainly is none.

    StoreUnavailable for a folder, NotAStore for a file too short to be one: SQLite takes such a file for an
    empty database and writes over it.
    """
    if path.is_dir():
        raise StoreUnavailable(f"the session store {path} is a folder: give the path of a file in it")
    if not path.exists():
        return False
    size = path.stat().st_size
    if size < _SMALLEST_DATABASE:
        raise NotAStore(
            f"the session store {path} is a file of {size} bytes, too short for one; it was left untouched: "
            "remove it, or give another path"
        )
    return True


@contextmanager
def new_file(path: Path) -> Generator[Path, None, None]:
    """Lend the path of an empty private file; on leaving, it becomes ``path`` in one step.

    If another process was faster, its file stays and this one vanishes; after an error too. Missing folders
    are made private; folders that exist keep their mode.
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
    """Give a complete file its place in one step, unless something has that place already.

    A link does both at once. Where the file system has no links (``link`` raises OSError), the file is moved
    while the folder is locked against other programs that do the same: a move would replace what is there.
    """
    try:
        link(temporary, path)
    except FileExistsError:
        return
    except OSError:
        import fcntl  # noqa: PLC0415 - the systems without it have links

        handle = os.open(path.parent, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if not path.exists():
                temporary.rename(path)
        finally:
            os.close(handle)


def back_up(path: Path, label: str) -> Path:
    """Copy the committed state of the store at ``path`` to a private file beside it, and return its path.

    Safe while a connection holds the write lock. ``label`` becomes part of the copy's name.
    """
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    target = path.with_name(f"{path.name}.{label}-{moment}-{secrets.token_hex(3)}.backup")
    copy(path, target)
    return target


def copy(path: Path, target: Path) -> None:
    """Copy the committed state of the store at ``path`` to a new private file, complete or not at all.

    Raises InvalidValue where something lies at ``target`` already.
    """
    if target.exists() or target.is_symlink():
        raise InvalidValue(f"{target} is there already: give the backup another path")
    with (
        new_file(target) as unfinished,
        closing(sqlite3.connect(path)) as source,
        closing(sqlite3.connect(unfinished)) as copied,
    ):
        source.backup(copied)


def make_entry_durable(folder: Path) -> None:
    """Sync a folder, so that a file that was made, moved or removed in it stays so after a power cut."""
    # SQLite syncs the bytes of a file; that its name is in the folder is another write.
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
