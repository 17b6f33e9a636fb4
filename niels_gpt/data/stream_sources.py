"""Describe the sources of a stream: facts that identify their content, and their documents by split.

`facts()` is cheap and changes when the content does; `documents()` reads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from niels_gpt.data.primer import load_primer_text, split_primer_dialogues
from niels_gpt.data.roam import list_roam_paths, list_text_paths, load_texts, split_roam_paths
from niels_gpt.data.wikitext import load_wikitext


class Source(Protocol):
    """One kind of text."""

    @property
    def outlives_its_origin(self) -> bool:
        """Whether a cached stream may be used where the origin cannot be reached."""
        ...

    @property
    def settings(self) -> dict[str, Any]:
        """The options of the source, as JSON values."""
        ...

    def facts(self) -> dict[str, Any]:
        """Return facts that change with the content, as JSON values; raises where there is no content."""
        ...

    def documents(self) -> dict[str, Iterable[str]]:
        """Return pieces of text by split, "train" and "val"; joined they are the stream."""
        ...


@dataclass(kw_only=True)
class WikiSource:
    """wikitext-103 with its own train and validation parts."""

    separator: str
    outlives_its_origin: bool = True
    _lines: dict[str, list[str]] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """The separator."""
        return {"separator": self.separator}

    def facts(self) -> dict[str, Any]:
        """Read and hash everything: a version of `datasets` does not identify the content."""
        self._lines = load_wikitext()
        digest = hashlib.sha256()
        for split in ("train", "val"):
            for line in self._lines[split]:
                digest.update(line.encode("utf-8", errors="replace") + b"\0")
        return {"sha256": digest.hexdigest()}

    def documents(self) -> dict[str, Iterable[str]]:
        """Return the lines of each split."""
        return {
            split: _joined((line.rstrip("\n") for line in self._lines[split]), self.separator)
            for split in ("train", "val")
        }


@dataclass(frozen=True, kw_only=True)
class FolderSource:
    """The texts of a folder, split by file."""

    root: Path
    notes_only: bool
    val_frac: float
    seed: int
    separator: str
    outlives_its_origin: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        """The options of reading and splitting the folder."""
        root = str(self.root.resolve())
        return {"root": root, "val_frac": self.val_frac, "seed": self.seed, "separator": self.separator}

    def facts(self) -> dict[str, Any]:
        """Return each file's path, size and modification time: hashing a large folder takes too long."""
        paths = self._paths()
        if not paths:
            kinds = ".md" if self.notes_only else ".md or .txt"
            raise FileNotFoundError(f"no {kinds} file under {str(self.root)!r}")
        return {"files": [_file_facts(path, self.root) for path in paths]}

    def documents(self) -> dict[str, Iterable[str]]:
        """Return the texts of the files of each split."""
        train, val = split_roam_paths(self._paths(), val_frac=self.val_frac, seed=self.seed)
        return {"train": self._texts(train), "val": self._texts(val)}

    def _paths(self) -> list[Path]:
        return list(map(Path, list_roam_paths(self.root))) if self.notes_only else list_text_paths(self.root)

    def _texts(self, paths: Iterable[Path]) -> Iterator[str]:
        return _joined((load_texts([path])[0] for path in paths), self.separator)


@dataclass(frozen=True, kw_only=True)
class PrimerSource:
    """Dialogues, split by dialogue."""

    path: Path
    val_frac: float
    seed: int
    delimiter: str
    joint: str
    outlives_its_origin: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        """The options of splitting and joining the file."""
        return {
            "path": str(self.path.resolve()),
            "val_frac": self.val_frac,
            "seed": self.seed,
            "delimiter": self.delimiter,
            "joint": self.joint,
        }

    def facts(self) -> dict[str, Any]:
        """Return the file's size and modification time."""
        return {"files": [_file_facts(self.path, self.path.parent)]}

    def documents(self) -> dict[str, Iterable[str]]:
        """Return the two sides of the split."""
        sides = split_primer_dialogues(
            load_primer_text(self.path), val_frac=self.val_frac, seed=self.seed, delimiter=self.delimiter
        )
        return {
            split: [side.replace(self.delimiter, self.joint)]
            for split, side in zip(("train", "val"), sides, strict=True)
        }


def _joined(texts: Iterable[str], separator: str) -> Iterator[str]:
    for index, text in enumerate(texts):
        yield separator + text if index else text


def _file_facts(path: Path, root: Path) -> list[str | int]:
    status = path.stat()
    return [path.absolute().relative_to(root.absolute()).as_posix(), status.st_size, status.st_mtime_ns]
