from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from niels_gpt.kernels.cache import (
    MARKER,
    VERSIONS_KEPT,
    cache_folder,
    claim_folder,
    forget_other_versions,
)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    return tmp_path


def test_where_nothing_can_be_stored_nothing_fails(elsewhere: Path) -> None:
    (elsewhere / "kernels").write_text("a file in the way of the folder")
    assert not claim_folder()
    forget_other_versions()


def version_folder(parent: Path, name: str, *, used: int, is_ours: bool = True) -> Path:
    folder = parent / name
    folder.mkdir(parents=True)
    (folder / "linear.nbi").write_text("compiled")
    if is_ours:
        (folder / MARKER).touch()
        os.utime(folder / MARKER, (used, used))
    os.utime(folder, (1, 1))
    return folder


def test_versions_that_were_not_used_for_longest_are_deleted_and_nothing_else(elsewhere: Path) -> None:
    assert claim_folder()
    parent = cache_folder().parent
    ours = [version_folder(parent, f"{number:016x}", used=1000 + number) for number in range(12)]
    foreign = [
        version_folder(parent, "attention_src", used=1, is_ours=False),
        version_folder(parent, "f" * 16, used=1, is_ours=False),
        version_folder(parent, "someone else", used=1),
    ]
    (parent / "a file").write_text("not ours")
    forget_other_versions()
    assert [folder for folder in ours if folder.exists()] == ours[12 - VERSIONS_KEPT + 1 :]
    assert cache_folder().exists()
    assert all((folder / "linear.nbi").exists() for folder in foreign)
    assert (parent / "a file").exists()


def test_a_folder_that_another_program_deletes_meanwhile_is_no_error(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert claim_folder()
    folders = [version_folder(cache_folder().parent, f"{number:016x}", used=1000) for number in range(12)]
    stat = Path.stat

    def deleted_first(path: Path, **options: Any) -> os.stat_result:
        if path.name == MARKER:
            shutil.rmtree(folders[2], ignore_errors=True)
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", deleted_first)
    forget_other_versions()
    assert sum(folder.exists() for folder in folders) == VERSIONS_KEPT - 1


def test_where_nothing_can_be_stored_kernels_still_run(tmp_path: Path) -> None:
    (tmp_path / "kernels").write_text("a file in the way of the folder")
    program = "from niels_gpt.kernels.fp_env import ieee_arithmetic\nwith ieee_arithmetic(): print('runs')"
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)},
        capture_output=True, text=True, check=True, timeout=50,
    )  # fmt: skip
    assert done.stdout == "runs\n"
