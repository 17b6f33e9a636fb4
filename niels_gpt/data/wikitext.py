"""Load wikitext as a training source.

Needs the extra `wiki`. `datasets` keeps what it fetched and takes seconds to import, so it is imported when
it is called.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from typing import Any

NAME, CONFIG = "wikitext", "wikitext-103-raw-v1"
SPLITS = {"train": "train", "val": "validation", "test": "test"}


def load_dataset(*args: Any, **kwargs: Any) -> Any:
    """Call `datasets.load_dataset`; ImportError where the extra is not installed."""
    datasets = importlib.import_module("datasets")  # an extra, and seconds to import
    return datasets.load_dataset(*args, **kwargs)


def load_wikitext() -> dict[str, list[str]]:
    """Return the lines of "train", "val" and "test", without blank ones.

    Raises whatever `datasets` raises where it is missing or cannot reach its data: ImportError, OSError, ...
    """
    found = load_dataset(NAME, CONFIG)
    return {ours: _lines(found[theirs]) for ours, theirs in SPLITS.items()}


def _lines(split: Any) -> list[str]:
    """Return the texts of a split: a column read at once where there are columns, else row by row."""
    columnar = hasattr(split, "column_names") or isinstance(split, Mapping)
    texts: Iterable[str] = split["text"] if columnar else (row["text"] for row in split)
    return [text for text in texts if text.strip()]
