"""Write files atomically and durably.

A reader, a crash or a full disk sees the old file or the new one, never a part. The bytes go to a temporary
file in the same folder, reach the disk, and then take the name in one step. Everything in this package that
writes a file as a whole goes through `atomic_write`; the session store has its own counterpart in
`sessions.sqlite_file`, because SQLite opens its file by path and `sessions` imports nothing from here.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

_TEMPORARY = re.compile(r"\..+\.(?P<pid>[0-9]+)\.tmp", re.DOTALL)
_MOST_LINKS = 40  # as many as Linux follows


@contextlib.contextmanager
def atomic_write(path: str | Path, *, overwrite: bool = True, mode: int | None = None) -> Iterator[BinaryIO]:
    """Open a binary file that becomes `path` when the block ends, and vanishes when the block fails.

    A symbolic link stays a link: the file that it points to is replaced. A device, a pipe or a descriptor
    such as /dev/stdout is not replaced either; the bytes are written to it directly.

    Args:
        path: The file to write. Its folder must exist.
        overwrite: Whether an existing file may be replaced. If not, a file that another program creates
            while the block runs is not replaced either.
        mode: Permission bits of the file. None: those of the file that it replaces, or the process's default.

    Raises:
        FileExistsError: `path` exists and `overwrite` is False.
        OSError: The file cannot be written. `filename` is `path`. It takes the place of whatever else the
            block raises because of that: libraries turn a full disk into exceptions of their own.

    """
    with _errors_named(path):
        target, is_stream = _destination(Path(path))
        if is_stream:
            temporary, raw = None, _open_stream(target)
        elif target.exists() and not overwrite:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        else:
            temporary, raw = _open_temporary(target, mode)
    try:
        with _complete(raw, path):
            file = io.BufferedWriter(raw)
            yield file
            file.flush()
            if temporary is not None:
                raw.sync()
        if temporary is not None:
            with _errors_named(path):
                _publish(temporary, target, overwrite=overwrite)
                _sync_folder(target.parent)
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str, *, overwrite: bool = True, mode: int | None = None) -> None:
    """Write a text as UTF-8, without translating line ends; arguments and errors of `atomic_write`."""
    with atomic_write(path, overwrite=overwrite, mode=mode) as file:
        file.write(text.encode("utf-8"))


def remove_stale(folder: Path) -> list[Path]:
    """Remove the temporary files of writers that were killed; return them. Those of live processes stay."""
    stale: list[Path] = []
    for path in sorted(folder.glob(".*.tmp")):
        found = _TEMPORARY.fullmatch(path.name)
        if found is not None and not _is_alive(int(found["pid"])):
            path.unlink(missing_ok=True)
            stale.append(path)
    return stale


class _RawFile(io.FileIO):
    """A file that remembers the first error of writing to it."""

    fault: OSError | None = None

    def write(self, data: Any, /) -> int:
        with self._remembering():
            return super().write(data)

    def sync(self) -> None:
        """Wait until what was written is on the disk."""
        with self._remembering():
            os.fsync(self.fileno())

    @contextlib.contextmanager
    def _remembering(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.fault = self.fault or error
            raise


@contextlib.contextmanager
def _complete(raw: _RawFile, path: str | Path) -> Iterator[None]:
    """Close `raw` after the block; raise one OSError about `path` if any of it could not be written."""
    cause: Exception | None = None
    try:
        yield
    except Exception as error:
        if raw.fault is None:
            raise
        cause = error
    finally:
        # Not the buffer: it would try to write what is left of a file that failed.
        raw.close()
    fault = raw.fault
    if fault is not None:
        raise OSError(fault.errno, fault.strerror or str(fault), str(path)) from cause


@contextlib.contextmanager
def _errors_named(path: str | Path) -> Iterator[None]:
    """Make errors name the file that was asked for, not the temporary one."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def _destination(path: Path) -> tuple[Path, bool]:
    """Follow symbolic links; return the last path, and whether to write to what is there directly."""
    for _ in range(_MOST_LINKS):
        folder = os.path.realpath(path.parent)
        if folder.startswith(("/proc/", "/dev/fd")):  # an open descriptor, whatever its link says
            return path, True
        if not path.is_symlink():
            break
        path = Path(folder) / path.readlink()
    else:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    try:
        kind = path.stat().st_mode
    except FileNotFoundError:
        return path, False
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    return path, not stat.S_ISREG(kind)


def _open_stream(path: Path) -> _RawFile:
    # Append, so that what a shell's >> has in the file stays; devices and pipes have no end to go to.
    append = os.O_APPEND if path.is_file() else 0
    descriptor = os.open(path, os.O_WRONLY | append | getattr(os, "O_BINARY", 0))
    return _RawFile(descriptor, "wb")


def _open_temporary(target: Path, mode: int | None) -> tuple[Path, _RawFile]:
    # In the same folder, so that the rename stays on one file system. The process id is for `remove_stale`,
    # the random part keeps the writers of one process apart. A name has at most 255 bytes.
    name = os.fsencode(target.name)[:200].decode(errors="ignore")
    temporary = target.with_name(f".{name}.{secrets.token_hex(4)}.{os.getpid()}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    descriptor = os.open(temporary, flags, 0o666 if mode is None else mode)
    raw = _RawFile(descriptor, "wb")
    if mode is None:
        with contextlib.suppress(OSError):  # no such file, or a file system without permission bits
            temporary.chmod(stat.S_IMODE(target.stat().st_mode))
    return temporary, raw


def _publish(temporary: Path, target: Path, *, overwrite: bool) -> None:
    """Give a complete file its name in one step."""
    if overwrite:
        temporary.replace(target)
        return
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError:
        # A file system without links: the creator of the name owns it, and may replace its empty file.
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        temporary.replace(target)


def _sync_folder(folder: Path) -> None:
    """Make a new name in a folder durable, where the system can open folders."""
    if os.name != "posix":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # one may write to a folder without being allowed to read it
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
