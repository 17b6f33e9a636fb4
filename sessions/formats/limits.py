"""Limit the size of imported files, so that a hostile one costs bounded time and memory."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Caps of one import. Bytes are UTF-8 bytes; a record is a line, or an element of a JSON array."""

    file_bytes: int = 1 << 30
    record_bytes: int = 32 << 20
    message_bytes: int = 4 << 20
    messages: int = 100_000
    """Messages of one session, over all branches."""
    sessions: int = 100_000
    nesting: int = 64
    """Levels of lists and objects within a record."""
