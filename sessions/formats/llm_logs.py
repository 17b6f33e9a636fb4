"""Read the logs database of the `llm` command line tool: every conversation in it, oldest first.

The file is opened read only, and nothing that its schema defines is run: only tables are read, by plain
queries. Databases of all versions with `conversations` and `responses` are read, those with fragments too.
Reads only.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any, NoReturn, cast

from sessions.formats.builder import clean_name, in_a_row
from sessions.formats.errors import ImportRefused, quoted
from sessions.formats.json_reader import Source
from sessions.records import Role, SessionArchive

_MAGIC = b"SQLite format 3\0"
_NEEDED = {
    "conversations": ("id", "name"),
    "responses": ("id", "prompt", "response", "conversation_id"),
}
_OPTIONAL = {"responses": ("system", "datetime_utc")}
_FRAGMENTS = {"prompt_fragments": "\n", "system_fragments": "\n\n"}


def is_sqlite(source: Source) -> bool:
    """Return whether the file is an SQLite database."""
    return source.head.startswith(_MAGIC)


def read(source: Source) -> Iterator[SessionArchive]:
    """Yield the conversations. Raises ImportRefused for a database or a row that is not as expected."""
    if not is_sqlite(source):
        raise ImportRefused(source.name, "", "is no SQLite database")
    try:
        with closing(_connected(source)) as database:
            yield from _Logs(source, database).sessions()
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise ImportRefused(source.name, "", f"cannot be read as a logs database ({error})") from error


def _connected(source: Source) -> sqlite3.Connection:
    database = sqlite3.connect(f"{source.path.resolve().as_uri()}?mode=ro", uri=True)
    # A value that is larger is an error before it is in memory.
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, source.limits.record_bytes)
    database.execute("PRAGMA trusted_schema = OFF")
    database.execute("PRAGMA query_only = ON")
    return database


class _Logs:
    """One opened logs database."""

    def __init__(self, source: Source, database: sqlite3.Connection) -> None:
        self._source = source
        self._database = database
        self._columns = {name: self._columns_of(name) for name in (*_NEEDED, *_FRAGMENTS, "fragments")}
        for table, columns in _NEEDED.items():
            missing = [name for name in columns if name not in self._columns[table]]
            if missing:
                what = f"has no table {table!r}" if not self._columns[table] else f"lacks {missing[0]!r}"
                raise ImportRefused(source.name, table, f"{what}: it is no logs database of llm")

    def sessions(self) -> Iterator[SessionArchive]:
        """Yield every conversation that has a response, those first that began first."""
        # Ids of conversations and responses count up with time.
        conversations = self._database.execute("SELECT id, name FROM conversations ORDER BY id")
        for number, (key, title) in enumerate(conversations, start=1):
            if number > self._source.limits.sessions:
                most = f"{self._source.limits.sessions:,}"
                raise ImportRefused(self._source.name, "conversations", f"are more than {most}")
            where = f"conversations[{_shown(key)}]"
            said: list[tuple[Role, str]] = []
            moments: list[datetime] = []
            for role, text, moment in self._said(key):
                if len(said) >= self._source.limits.messages:
                    self._refuse(where, f"has more than {self._source.limits.messages:,} messages")
                said.append((role, text))
                moments.append(moment)
            if said:
                name = clean_name(
                    title if isinstance(title, str) else None, f"{self._source.path.stem}-{number}"
                )
                yield in_a_row(name, said, created=moments[0], moments=moments)

    def _said(self, conversation: object) -> Iterator[tuple[Role, str, datetime]]:
        present = [name for name in _OPTIONAL["responses"] if name in self._columns["responses"]]
        columns = ", ".join(["id", "prompt", "response", *present])
        query = f"SELECT {columns} FROM responses WHERE conversation_id = ? ORDER BY id"  # noqa: S608 - our own names
        system = ""
        for key, prompt, response, *rest in self._database.execute(query, (conversation,)):
            more = dict(zip(present, rest, strict=True))
            where = f"responses[{_shown(key)}]"
            moment = self._moment(where, more.get("datetime_utc"))
            instruction = self._joined(where, "system", key, "system_fragments", more.get("system"))
            if instruction and instruction != system:
                system = instruction
                yield "system", system, moment
            yield "user", self._joined(where, "prompt", key, "prompt_fragments", prompt), moment
            yield "assistant", self._text(where, "response", response), moment

    def _joined(self, where: str, field: str, key: object, table: str, text: object) -> str:
        """Return a text with the fragments that stand before it."""
        parts = [self._text(where, table, part) for part in self._fragments(table, key)]
        own = self._text(where, field, text)
        joined = _FRAGMENTS[table].join([*parts, own] if own else parts)
        return self._text(where, field, joined)

    def _fragments(self, table: str, key: object) -> list[object]:
        if not self._columns[table] or not self._columns["fragments"]:
            return []
        query = (
            f"SELECT content FROM fragments JOIN {table} AS used ON used.fragment_id = fragments.id "  # noqa: S608
            'WHERE used.response_id = ? ORDER BY used."order"'
        )
        return [content for (content,) in self._database.execute(query, (key,))]

    def _columns_of(self, table: str) -> frozenset[str]:
        kind = self._database.execute("SELECT type FROM sqlite_master WHERE name = ?", (table,)).fetchone()
        if kind is None or kind[0] != "table":
            return frozenset()
        rows = self._database.execute("SELECT name FROM pragma_table_info(?)", (table,))
        return frozenset(cast("str", name) for (name,) in rows)

    def _text(self, where: str, field: str, value: Any) -> str:
        if value is None:
            return ""
        if not isinstance(value, str):
            self._refuse(f"{where}.{field}", f"{quoted(value)} is not text")
        size = len(value.encode())
        if size > self._source.limits.message_bytes:
            most = f"{self._source.limits.message_bytes:,}"
            self._refuse(f"{where}.{field}", f"has {size:,} bytes: expected at most {most}")
        return value

    def _moment(self, where: str, value: object) -> datetime:
        if value is None:
            return self._source.now
        try:
            moment = datetime.fromisoformat(cast("str", value))
        except (TypeError, ValueError):
            self._refuse(f"{where}.datetime_utc", f"{quoted(value)} is not a moment in ISO 8601")
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)

    def _refuse(self, field: str, what: str) -> NoReturn:
        raise ImportRefused(self._source.name, field, what)


def _shown(key: object) -> str:
    return quoted(key)
