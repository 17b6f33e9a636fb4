"""Keep what was typed, in the user's state folder, for the next start.

Reads and writes prompt-toolkit's file format, but writes each entry with one call in append mode, so that
two programs at once cannot interleave their lines. Only the user can read the file.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from prompt_toolkit.history import FileHistory, History, InMemoryHistory

from niels_gpt.cli.prompt_history import history_path


class AppendingHistory(FileHistory):
    """A FileHistory that appends whole entries. A disk that refuses costs the entry and nothing else."""

    def __init__(self, path: Path) -> None:
        self._path = path
        super().__init__(str(path))

    def store_string(self, string: str) -> None:
        """Append one entry, in one write."""
        lines = "".join(f"+{line}\n" for line in string.split("\n"))
        entry = f"\n# {datetime.now(UTC)}\n{lines}".encode("utf-8", errors="replace")
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(descriptor, entry)
            finally:
                os.close(descriptor)
        except OSError:
            return


def open_history(folder: Path | None = None) -> History:
    """Return the history in `folder` (None: the user's state folder), in memory where none can be kept."""
    path = history_path(folder)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with path.open("ab"):
            path.chmod(0o600)
        path.read_bytes()
    except OSError:
        return InMemoryHistory()
    return AppendingHistory(path)
