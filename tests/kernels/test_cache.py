from __future__ import annotations

from pathlib import Path

import pytest

from niels_gpt.kernels.cache import cache_folder, is_prepared, mark_prepared


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    return tmp_path


def test_each_form_of_weights_is_prepared_for_itself(elsewhere: Path) -> None:
    assert cache_folder().is_relative_to(elsewhere)
    cache_folder().mkdir(parents=True)
    mark_prepared("float32")
    assert is_prepared()
    assert not is_prepared("int8")
    mark_prepared("int8")
    assert is_prepared("int8")


def test_where_nothing_can_be_stored_nothing_is_prepared_and_nothing_fails(elsewhere: Path) -> None:
    (elsewhere / "kernels").write_text("a file in the way of the folder")
    mark_prepared("float32")
    assert not is_prepared()
