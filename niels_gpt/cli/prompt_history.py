"""Find and remove entries of the chat's prompt history, which holds every line that was typed.

The file has prompt-toolkit's format: entries are lines that begin with `+`, under a comment with the time.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Set
from pathlib import Path

from platformdirs import user_state_path

from niels_gpt.atomic_io import atomic_write

_PRIVATE = 0o600


def history_path(folder: Path | None = None) -> Path:
    """Return the path of the history in `folder` (None: the user's state folder)."""
    return (folder or user_state_path("niels-gpt", appauthor=False)) / "history"


def count_entries(path: Path, texts: Set[str]) -> int:
    """Return how many entries are one of `texts`, alone or behind a slash command; 0 for no history."""
    return sum(_is_one_of(entry, texts) for entry, _ in _entries(_read(path)))


def remove_entries(path: Path, texts: Set[str]) -> None:
    """Remove the entries that `count_entries` counts. Raises OSError where the file cannot be written."""
    kept = b"".join(raw for entry, raw in _entries(_read(path)) if not _is_one_of(entry, texts))
    with atomic_write(path, mode=_PRIVATE) as file:
        file.write(kept)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _entries(stored: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield each entry with its bytes, and text between entries with the one that follows it."""
    raw: list[bytes] = []
    lines: list[bytes] = []
    # Only a line feed ends a line of this file; what was typed may hold other line ends.
    for line in io.BytesIO(stored):
        if lines and not line.startswith(b"+"):
            yield _text(lines), b"".join(raw)
            raw, lines = [], []
        raw.append(line)
        if line.startswith(b"+"):
            lines.append(line)
    if raw:
        yield _text(lines), b"".join(raw)


def _text(lines: list[bytes]) -> str:
    return b"".join(line[1:] for line in lines).decode("utf-8", "replace").strip()


def _is_one_of(entry: str, texts: Set[str]) -> bool:
    command, _, rest = entry.partition(" ")
    return entry in texts or (command.startswith("/") and rest.strip() in texts)
