"""Typed access to the tables of a logs database of the `llm` command line tool."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NoReturn, cast

from sessions.formats.builder import clean_name
from sessions.formats.errors import ImportRefused, quoted
from sessions.formats.json_reader import Source

RESPONSES = {
    "conversations": ("id", "name"),
    "responses": ("id", "prompt", "response", "conversation_id"),
}
THREADS = {
    "threads": ("id", "name", "tip_message_hash"),
    "turns": ("id", "thread_id", "tip_message_hash"),
    "messages": ("hash", "parent_hash", "role"),
    "parts": ("message_hash", "position", "type", "text"),
}
_OPTIONAL = {
    "responses": ("system", "datetime_utc"),
    "threads": ("datetime_utc",),
    "turns": ("datetime_utc",),
    "parts": ("id",),
}
FRAGMENTS = {"prompt_fragments": "\n", "system_fragments": "\n\n"}
_FRAGMENTS_OF_PARTS = ("part_fragments",)


def connected(source: Source) -> sqlite3.Connection:
    """Open the database read only, so that no view or trigger of its schema runs."""
    database = sqlite3.connect(f"{source.path.resolve().as_uri()}?mode=ro", uri=True)
    # SQLite refuses a larger value before it is in memory.
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, source.limits.record_bytes)
    database.execute("PRAGMA trusted_schema = OFF")
    database.execute("PRAGMA query_only = ON")
    return database


class LogTables:
    """Typed access to the tables of an open logs database."""

    def __init__(self, source: Source, database: sqlite3.Connection) -> None:
        self.source = source
        self.database = database
        names = (*RESPONSES, *THREADS, *FRAGMENTS, *_FRAGMENTS_OF_PARTS, "fragments")
        self._columns = {name: self._columns_of(name) for name in names}

    def has(self, needed: Mapping[str, tuple[str, ...]]) -> bool:
        """Return whether tables with these columns exist."""
        return all(self._columns[table].issuperset(columns) for table, columns in needed.items())

    def has_table(self, *tables: str) -> bool:
        """Return whether tables with these names exist."""
        return all(self._columns[table] for table in tables)

    def refuse_missing(self, needed: Mapping[str, tuple[str, ...]]) -> NoReturn:
        """Refuse the file for the first table or column that it lacks."""
        for table, columns in needed.items():
            missing = [name for name in columns if name not in self._columns[table]]
            if missing:
                what = f"lacks {missing[0]!r}" if self._columns[table] else f"has no table {table!r}"
                raise ImportRefused(self.source.name, table, f"{what}: it is not a logs database of llm")
        raise AssertionError(needed)

    def rows(self, table: str, columns: tuple[str, ...], order: str) -> Iterator[dict[str, object]]:
        """Yield the rows of a table; optional columns that it lacks are None."""
        optional = _OPTIONAL.get(table, ())
        present = [*columns, *(each for each in optional if each in self._columns[table])]
        query = f"SELECT {', '.join(present)} FROM {table} ORDER BY {order}"  # noqa: S608 - our own names
        for row in self.database.execute(query):
            yield {**dict.fromkeys(optional), **dict(zip(present, row, strict=True))}

    def fragments(self, table: str, key: str) -> dict[object, list[object]]:
        """Return the contents of the fragments that precede each text, by the text's key."""
        found: dict[object, list[object]] = {}
        if self.has_table(table, "fragments"):
            query = (
                f"SELECT used.{key}, content FROM {table} AS used "  # noqa: S608 - our own names
                f'JOIN fragments ON used.fragment_id = fragments.id ORDER BY used.{key}, used."order"'
            )
            for owner, content in self.database.execute(query):
                found.setdefault(owner, []).append(content)
        return found

    def _columns_of(self, table: str) -> frozenset[str]:
        kind = self.database.execute("SELECT type FROM sqlite_master WHERE name = ?", (table,)).fetchone()
        if kind is None or kind[0] != "table":
            return frozenset()
        rows = self.database.execute("SELECT name FROM pragma_table_info(?)", (table,))
        return frozenset(cast("str", name) for (name,) in rows)

    def joined(self, where: str, field: str, fragments: list[object], own: object, between: str) -> str:
        """Return a text with the fragments that precede it."""
        parts = [self.text(where, "fragments", part) for part in fragments]
        text = self.text(where, field, own)
        return self.text(where, field, between.join([*parts, text] if text else parts))

    def text(self, where: str, field: str, value: Any) -> str:
        """Return a value as text; None is the empty text."""
        if value is None:
            return ""
        if not isinstance(value, str):
            self.refuse(f"{where}.{field}", f"{quoted(value)} is not text")
        size = len(value.encode())
        if size > self.source.limits.message_bytes:
            most = f"{self.source.limits.message_bytes:,}"
            self.refuse(f"{where}.{field}", f"has {size:,} bytes: expected at most {most}")
        return value

    def moment(self, where: str, value: object) -> datetime | None:
        """Return a time in UTC, or None if it is absent."""
        if value is None:
            return None
        try:
            moment = datetime.fromisoformat(cast("str", value))
        except (TypeError, ValueError):
            self.refuse(f"{where}.datetime_utc", f"{quoted(value)} is not a time in ISO 8601")
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)

    def name(self, title: object, number: int) -> str:
        """Return a session's name."""
        return clean_name(title if isinstance(title, str) else None, f"{self.source.path.stem}-{number}")

    def check_count(self, where: str, count: int) -> None:
        """Refuse a session with too many messages."""
        if count > self.source.limits.messages:
            self.refuse(where, f"has more than {self.source.limits.messages:,} messages")

    def refuse(self, field: str, what: str) -> NoReturn:
        """Raise ImportRefused about a field."""
        raise ImportRefused(self.source.name, field, what)
