"""The one writer of whole files: atomic, through links and devices, one OSError for whatever fails."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from niels_gpt.atomic_io import atomic_write, remove_stale, write_text

posix = pytest.mark.skipif(os.name != "posix", reason="links, pipes and permission bits")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="/dev/full and /proc")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_then(path: Path, action: Callable[[], object], *, overwrite: bool = True) -> None:
    with atomic_write(path, overwrite=overwrite) as file:
        file.write(b"new" * 100_000)
        action()


def raising(error: type[BaseException]) -> None:
    raise error


def test_the_old_file_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    for error in (ZeroDivisionError, KeyboardInterrupt):
        with pytest.raises(error):
            write_then(path, lambda error=error: raising(error))
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_an_existing_file_is_kept_unless_it_may_be_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "first", overwrite=False)
    with pytest.raises(FileExistsError) as caught:
        write_text(path, "second", overwrite=False)
    assert caught.value.filename == str(path)
    assert path.read_text() == "first"
    assert names(tmp_path) == ["a.txt"]


def no_links(_source: object, _target: object) -> None:
    raise PermissionError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("link", [os.link, no_links])
def test_a_file_that_appears_meanwhile_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link: Callable[..., None]
) -> None:
    monkeypatch.setattr(os, "link", link)
    path = tmp_path / "a.txt"
    with pytest.raises(FileExistsError):
        write_then(path, lambda: path.write_text("theirs"), overwrite=False)
    assert path.read_text() == "theirs"
    assert names(tmp_path) == ["a.txt"]
    write_text(tmp_path / "b.txt", "mine", overwrite=False)
    assert (tmp_path / "b.txt").read_text() == "mine"


@posix
def test_a_symbolic_link_stays_and_its_target_is_written(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    target = tmp_path / "folder" / "target"
    (tmp_path / "link").symlink_to("folder/target")
    (tmp_path / "link to link").symlink_to(tmp_path / "link")
    for text in ("made", "replaced"):
        write_text(tmp_path / "link to link", text)
        assert (target.read_text(), target.is_symlink()) == (text, False)
    assert (tmp_path / "link").is_symlink()
    assert names(target.parent) == ["target"]
    with pytest.raises(FileExistsError):
        write_text(tmp_path / "link", "again", overwrite=False)


@posix
def test_links_in_a_circle_are_one_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(OSError, match="symbolic links") as caught:
        write_text(tmp_path / "a", "text")
    assert caught.value.filename == str(tmp_path / "a")
    assert names(tmp_path) == ["a", "b"]


@posix
@pytest.mark.parametrize("overwrite", [True, False])
def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path: Path, overwrite: bool) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_text(path, "through", overwrite=overwrite)
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(path.stat().st_mode)


@on_linux
def test_standard_output_is_appended_to_where_the_shell_redirected_it(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("before\n")
    with path.open("ab") as output:
        (tmp_path / "link").symlink_to(f"/proc/self/fd/{output.fileno()}")
        write_text(f"/dev/fd/{output.fileno()}", "one\n")
        write_text(tmp_path / "link", "two\n")
    assert path.read_text() == "before\none\ntwo\n"
    assert names(tmp_path) == ["link", "out"]


@posix
def test_permission_bits_are_kept_or_as_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "x", mode=0o600)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o640)
    write_text(path, "y")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    write_text(path, "z", mode=0o600)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_errors_name_the_file_that_was_asked_for(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere" / "a.txt", tmp_path):
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the name is what is asserted
            write_text(path, "text")
        assert caught.value.filename == str(path)


def test_a_name_as_long_as_the_file_system_allows_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 127)
    write_text(path, "text")
    assert path.read_text() == "text"


def save_tensors(path: Path, count: int) -> None:
    with atomic_write(path) as file:
        torch.save({"weights": torch.zeros(count)}, file)


@on_linux
@pytest.mark.parametrize("count", [10, 1_000_000])
def test_a_full_disk_is_an_error_also_where_a_library_hides_it(tmp_path: Path, count: int) -> None:
    (tmp_path / "model.pt").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as caught:
        save_tensors(tmp_path / "model.pt", count)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "model.pt"))


LIMITED = """
import resource, sys
from niels_gpt.atomic_io import atomic_write
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with atomic_write(sys.argv[1]) as file:
        file.write(bytes(1_000_000))
except OSError as error:
    print(type(error).__name__, error.strerror, error.filename == sys.argv[1])
"""


@on_linux
def test_a_file_beyond_the_limit_of_its_size_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_text("old")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, check=True, timeout=50
    )
    assert done.stdout == "OSError File too large True\n"
    assert path.read_text() == "old"
    assert names(tmp_path) == ["model.pt"]


def write_swallowing(path: Path) -> None:
    with atomic_write(path) as file, contextlib.suppress(OSError):
        file.write(bytes(100_000))


@on_linux
def test_an_error_of_writing_that_the_block_swallows_still_fails_the_file(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        write_swallowing(tmp_path / "a")


def test_an_error_that_is_not_about_writing_passes_through(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="other file") as caught, atomic_write(tmp_path / "a"):
        raise OSError(errno.EIO, "other file", "elsewhere")
    assert caught.value.filename == "elsewhere"


def test_temporary_files_of_killed_writers_are_removed(tmp_path: Path) -> None:
    nobody = 2**22 + 1  # beyond the largest process number
    stale = tmp_path / f".a.txt.0badcafe.{nobody}.tmp"
    stale.write_text("half")
    (tmp_path / ".foreign.tmp").write_text("not ours")
    with atomic_write(tmp_path / "a.txt"):
        assert remove_stale(tmp_path) == [stale]
    assert names(tmp_path) == [".foreign.tmp", "a.txt"]
