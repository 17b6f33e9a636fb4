"""Cache one stream: a file of bytes, and a JSON file that describes its origin.

The description is written last and removed first, so an incomplete stream after a crash is never used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from niels_gpt.atomic_io import atomic_write, remove_stale, write_text

VERSION = 1


class StreamFile:
    """`NAME.bin` and `NAME.meta.json` in a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f"{name}.bin"
        self._meta_path = folder / f"{name}.meta.json"

    def holds(self, settings: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
        """Return whether a complete stream of these settings and this content exists."""
        meta = self._meta()
        return self.made_with(settings) and meta is not None and meta.get("facts") == facts

    def made_with(self, settings: Mapping[str, Any]) -> bool:
        """Return whether a complete stream of these settings exists."""
        meta = self._meta()
        if meta is None or not self.path.is_file():
            return False
        described = (meta.get("version"), meta.get("settings"), meta.get("bytes"))
        return described == (VERSION, settings, self.size())

    def size(self) -> int:
        """Return the size of the stream in bytes."""
        return self.path.stat().st_size

    def write(self, texts: Iterable[str], settings: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Write the texts in order as UTF-8, then the description."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._meta_path.unlink(missing_ok=True)
        digest = hashlib.sha256()
        remove_stale(self.path.parent)
        with atomic_write(self.path) as file:
            for text in texts:
                part = text.encode("utf-8", errors="replace")
                digest.update(part)
                file.write(part)
        meta = {
            "version": VERSION,
            "bytes": self.size(),
            "sha256": digest.hexdigest(),
            "settings": settings,
            "facts": facts,
        }
        write_text(self._meta_path, json.dumps(meta, indent=1) + "\n")

    def _meta(self) -> dict[str, Any] | None:
        """Return the description, or None where it is missing or unreadable."""
        try:
            meta = json.loads(self._meta_path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return meta if isinstance(meta, dict) else None
