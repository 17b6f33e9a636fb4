"""Where a format writes to: anything that takes text. Knows no file."""

from __future__ import annotations

from typing import Protocol


class Output(Protocol):
    """An open text file, a terminal, a test's list."""

    def write(self, text: str, /) -> object:
        """Take a piece of text."""
        ...
