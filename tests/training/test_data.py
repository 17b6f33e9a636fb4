from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from niels_gpt.data import (
    DIALOGUE_DELIM,
    list_roam_paths,
    list_text_paths,
    load_primer_text,
    load_texts,
    load_wikitext,
    split_primer_dialogues,
    split_roam_paths,
    wikitext,
)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    root = tmp_path / "notes"
    for name in ("b.md", "a.md", "deep/er/c.MD", "d.txt", ".hidden/e.md", "f.py"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"text of {name}", encoding="utf-8")
    return root


def names(root: Path, paths: Iterable[str | Path]) -> list[str]:
    return [Path(path).relative_to(root).as_posix() for path in paths]


def test_notes_are_the_markdown_files_sorted_however_deep(notes: Path) -> None:
    assert names(notes, list_roam_paths(notes)) == ["a.md", "b.md", "deep/er/c.MD"]
    assert names(notes, list_text_paths(notes)) == ["a.md", "b.md", "d.txt", "deep/er/c.MD"]


def test_a_missing_folder_has_no_notes(tmp_path: Path) -> None:
    assert list_roam_paths(tmp_path / "nowhere") == []


def test_texts_come_in_order_and_bad_bytes_are_replaced(notes: Path) -> None:
    (notes / "a.md").write_bytes(b"caf\xe9")
    assert load_texts([notes / "b.md", notes / "a.md"]) == ["text of b.md", "caf�"]


def test_paths_split_the_same_way_in_any_order() -> None:
    paths = [Path(f"{n:02}.md") for n in range(20)]
    train, val = split_roam_paths(paths, val_frac=0.1, seed=1)
    assert split_roam_paths(paths[::-1], val_frac=0.1, seed=1) == (train, val)
    assert (len(train), len(val)) == (18, 2)
    assert sorted(train + val) == paths
    assert split_roam_paths(paths, val_frac=0.1, seed=2) != (train, val)


@pytest.mark.parametrize(
    ("count", "frac", "held_out"), [(1, 0.5, 0), (2, 0.01, 1), (2, 0.99, 1), (9, 0.0, 0)]
)
def test_two_items_are_enough_for_both_sides(count: int, frac: float, held_out: int) -> None:
    paths = [Path(f"{n}.md") for n in range(count)]
    assert len(split_roam_paths(paths, val_frac=frac, seed=0)[1]) == held_out


@pytest.mark.parametrize("frac", [-0.1, 1.0, float("nan")])
def test_a_share_outside_of_0_to_1_is_refused(frac: float) -> None:
    with pytest.raises(ValueError, match="val_frac"):
        split_roam_paths([], val_frac=frac, seed=0)
    with pytest.raises(ValueError, match="val_frac"):
        split_primer_dialogues("a", val_frac=frac, seed=0)


def test_dialogues_are_split_without_overlap_or_loss() -> None:
    dialogues = [f"user: {n}\nassistant: {n}\n" for n in range(30)]
    dialogues += dialogues[:5]  # copies, which must not stand on both sides
    train, val = split_primer_dialogues(DIALOGUE_DELIM.join(dialogues), val_frac=0.2, seed=3)
    learned, held_out = train.split(DIALOGUE_DELIM), val.split(DIALOGUE_DELIM)
    assert set(learned).isdisjoint(held_out)
    assert sorted(learned + held_out) == sorted(dialogues)
    assert len(set(held_out)) == 6
    assert split_primer_dialogues(DIALOGUE_DELIM.join(dialogues), val_frac=0.2, seed=3) == (train, val)


def test_copies_of_one_dialogue_alone_are_on_both_sides() -> None:
    train, val = split_primer_dialogues(DIALOGUE_DELIM.join(["same"] * 20), seed=1)
    assert (train.count("same"), val.count("same")) == (18, 2)


def test_a_mark_and_bad_bytes_of_a_primer_do_not_reach_the_text(tmp_path: Path) -> None:
    (tmp_path / "primer.txt").write_bytes(b"\xef\xbb\xbfuser: caf\xe9\r\n")
    assert load_primer_text(tmp_path / "primer.txt") == "user: caf\ufffd\n"


def test_paths_of_notes_are_absolute_strings(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(notes)
    found = list_roam_paths(".")
    assert found == [str(notes / name) for name in ("a.md", "b.md", "deep/er/c.MD")]
    assert split_roam_paths(found, val_frac=0.0, seed=1) == (found, [])


def test_a_delimiter_of_ones_own_splits_too() -> None:
    train, val = split_primer_dialogues("a--b", val_frac=0.5, seed=0, delimiter="--")
    assert sorted((train, val)) == ["a", "b"]


def test_the_shipped_primer_is_the_one_that_is_loaded() -> None:
    assert DIALOGUE_DELIM in load_primer_text()


@pytest.mark.parametrize("shape", ["rows", "columns"])
def test_wikitext_comes_without_blank_lines(monkeypatch: pytest.MonkeyPatch, shape: str) -> None:
    def fake(*arguments: str) -> dict[str, Any]:
        assert arguments == ("wikitext", "wikitext-103-raw-v1")
        texts = {"train": ["one", "", " \n"], "validation": ["two"], "test": [" = three = \n"]}
        if shape == "columns":
            return {split: {"text": column} for split, column in texts.items()}
        return {split: [{"text": text} for text in column] for split, column in texts.items()}

    monkeypatch.setattr(wikitext, "load_dataset", fake)
    assert load_wikitext() == {"train": ["one"], "val": ["two"], "test": [" = three = \n"]}
