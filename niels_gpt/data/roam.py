"""Read folders of text files: the optional notes under data/.roam-data, or any other folder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from niels_gpt.data.splits import split_items
from niels_gpt.paths import ROAM_DIR

PathT = TypeVar("PathT", bound=str | Path)
NOTE_SUFFIXES = (".md",)
TEXT_SUFFIXES = (".md", ".txt")


def list_roam_paths(root: str | Path = ROAM_DIR) -> list[str]:
    """Return the absolute paths of the Markdown files under `root`, sorted; none without such a folder."""
    return [str(path.absolute()) for path in list_text_paths(root, suffixes=NOTE_SUFFIXES)]


def list_text_paths(root: str | Path, *, suffixes: Sequence[str] = TEXT_SUFFIXES) -> list[Path]:
    """Return the files with one of the suffixes under `root`, at any depth, sorted by path.

    Hidden folders below `root`, such as .git, are skipped.
    """
    root = Path(root)
    found = (path for path in root.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
    seen = (path for path in found if not any(part[0] == "." for part in path.relative_to(root).parts))
    return sorted(seen, key=lambda path: path.relative_to(root).as_posix())


def load_texts(paths: Iterable[str | Path]) -> list[str]:
    """Return each file's text. Bytes that are not UTF-8 become U+FFFD: one bad note must not end a run."""
    return [Path(path).read_text(encoding="utf-8-sig", errors="replace") for path in paths]


def split_roam_paths(
    paths: Sequence[PathT], *, val_frac: float = 0.1, seed: int
) -> tuple[list[PathT], list[PathT]]:
    """Return (train, val) by file, independent of the order of `paths`; see `splits.split_items`."""
    return split_items(sorted(paths, key=lambda path: Path(path).as_posix()), val_frac=val_frac, seed=seed)
