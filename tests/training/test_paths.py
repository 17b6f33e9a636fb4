"""Where training reads and writes: in a checkout, and in an installed package."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

from niels_gpt import paths


def test_an_installed_package_writes_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site-packages" / "niels_gpt"
    package.mkdir(parents=True)
    shutil.copy(paths.__file__, package / "paths.py")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    spec = importlib.util.spec_from_file_location("installed_paths", package / "paths.py")
    assert spec is not None
    assert spec.loader is not None
    installed = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(installed)
    assert not installed.IS_CHECKOUT
    assert work / "checkpoints" == installed.CHECKPOINT_DIR
    assert work / "data" / "primer.txt" == installed.PRIMER_PATH


def test_a_checkout_is_recognized() -> None:
    assert paths.IS_CHECKOUT
    assert (paths.REPO_ROOT / "niels_gpt" / "paths.py").samefile(paths.__file__)
