"""Packed weights on disk: the same bits as packed in memory, found by content, never trusted, bounded."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from niels_gpt.kernels import packed_cache
from niels_gpt.kernels.gpt_packing import PackedModel, pack_form
from niels_gpt.model.stored import release_pages
from tests.kernels.models import read_in
from tests.kernels.test_forms import BASE, weights_of

IDS = list(range(40))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(packed_cache, "packed_folder", lambda: tmp_path / "packed")
    monkeypatch.setattr(packed_cache, "LEAST_BYTES", 0)
    return tmp_path / "packed"


def packed(content: str | None = "a", seed: int = 0, form: str = "q4") -> PackedModel:
    return pack_form(BASE, weights_of(BASE, seed), form, content=content)  # pyright: ignore[reportArgumentType]


def logits(model: PackedModel) -> bytes:
    return read_in(model, IDS, [len(IDS)]).tobytes()


def test_a_mapped_model_has_the_bits_of_one_packed_anew(folder: Path) -> None:
    unsaved, first, second = packed(None), packed(), packed()
    assert isinstance(second._memory, np.memmap)
    assert not isinstance(first._memory, np.memmap)
    assert logits(unsaved) == logits(first) == logits(second)
    assert len(list(folder.iterdir())) == 1


def test_other_content_or_another_form_is_another_file(folder: Path) -> None:
    packed()
    assert logits(packed("b", seed=1)) != logits(packed())
    packed(form="q8")
    assert len(list(folder.iterdir())) == 3


@pytest.mark.parametrize("damage", ["a bit", "short", "empty"])
def test_a_damaged_file_is_written_again(folder: Path, damage: str) -> None:
    expected = logits(packed())
    [path] = folder.iterdir()
    raw = bytearray(path.read_bytes())
    raw[-100] ^= 1
    path.write_bytes({"a bit": bytes(raw), "short": bytes(raw[:-4]), "empty": b""}[damage])
    assert logits(packed()) == expected
    assert isinstance(packed()._memory, np.memmap)


def test_small_models_and_places_that_cannot_be_written_keep_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write_text("a file in the way of the folder")
    assert logits(packed()) == logits(packed(None))
    folder.unlink()
    monkeypatch.setattr(packed_cache, "LEAST_BYTES", 10**9)
    packed()
    assert not folder.exists()


def test_the_files_that_were_not_used_for_longest_are_deleted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i, content in enumerate("abc"):
        packed(content)
        os.utime(max(folder.iterdir(), key=lambda path: path.stat().st_mtime), (i, i))
    size = next(folder.iterdir()).stat().st_size
    monkeypatch.setattr(packed_cache, "MOST_BYTES", 2 * size)
    packed("a")  # used again
    packed("d")
    assert len(list(folder.iterdir())) == 2
    assert all(isinstance(packed(content)._memory, np.memmap) for content in "ad")


def test_released_pages_are_read_again(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(range(256)) * 64)
    mapped = np.memmap(tmp_path / "file", np.uint8, "r")
    part = mapped[10:5000]
    release_pages([part, part[7:], np.zeros(3)])
    assert part[0] == 10
