"""Read the logs database of the `llm` command line tool: every conversation in it, oldest first.

llm has two schemas, and an upgraded database contains both: until 0.31 rows of
`conversations` and `responses`, from 0.32 on as `threads` and `turns` over a tree of `messages`, branches
included. Both are read.

The file is opened read only, and no view or trigger of its schema is run: only tables are read, with plain
queries.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from typing import Any, NoReturn, cast

from sessions.formats.builder import Draft, clean_name, in_a_row, session_of
from sessions.formats.errors import ImportRefused, quoted
from sessions.formats.json_reader import Source
from sessions.records import Role, SessionArchive

_MAGIC = b"SQLite format 3\0"
_RESPONSES = {
    "conversations": ("id", "name"),
    "responses": ("id", "prompt", "response", "conversation_id"),
}
_THREADS = {
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
_FRAGMENTS = {"prompt_fragments": "\n", "system_fragments": "\n\n"}
_FRAGMENTS_OF_PARTS = ("part_fragments",)
_ROLES: dict[str, Role | None] = {"system": "system", "user": "user", "assistant": "assistant", "tool": None}
_PARTS = {
    "tool_call": "calls of tools",
    "tool_result": "results of tools",
    "reasoning": "thoughts",
    "attachment": "attachments",
}
"""Plural names of unsupported message parts; other parts are counted under their own type."""


def is_sqlite(source: Source) -> bool:
    """Return whether the file is an SQLite database."""
    return source.head.startswith(_MAGIC)


def read(source: Source) -> Iterator[SessionArchive]:
    """Yield the conversations. Raises ImportRefused for an unexpected database or row."""
    if not is_sqlite(source):
        raise ImportRefused(source.name, "", "is not an SQLite database")
    try:
        with closing(_connected(source)) as database:
            tables = _Tables(source, database)
            found = [
                each
                for each, needed in ((_Responses, _RESPONSES), (_Threads, _THREADS))
                if tables.has(needed)
            ]
            if not found:
                tables.refuse_missing(_RESPONSES)
            number = 0
            for kind in found:
                for archive in kind(source, tables).sessions(first=number + 1):
                    number += 1
                    yield archive
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise ImportRefused(source.name, "", f"cannot be read as a logs database ({error})") from error


def _connected(source: Source) -> sqlite3.Connection:
    database = sqlite3.connect(f"{source.path.resolve().as_uri()}?mode=ro", uri=True)
    # SQLite refuses a larger value before it is in memory.
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, source.limits.record_bytes)
    database.execute("PRAGMA trusted_schema = OFF")
    database.execute("PRAGMA query_only = ON")
    return database


class _Tables:
    """Typed access to the tables of an open logs database."""

    def __init__(self, source: Source, database: sqlite3.Connection) -> None:
        self.source = source
        self.database = database
        names = (*_RESPONSES, *_THREADS, *_FRAGMENTS, *_FRAGMENTS_OF_PARTS, "fragments")
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


def _numbered(
    source: Source, first: int, pieces: Iterator[tuple[str, Callable[[int], SessionArchive | None]]]
) -> Iterator[SessionArchive]:
    """Yield the sessions of a table's rows."""
    for number, (table, make) in enumerate(pieces, start=first):
        if number > source.limits.sessions:
            raise ImportRefused(source.name, table, f"are more than {source.limits.sessions:,}")
        archive = source.attempt(partial(make, number))
        if archive is not None:
            yield archive


class _Responses:
    """Conversations as they were stored until llm 0.31."""

    def __init__(self, source: Source, tables: _Tables) -> None:
        self._source = source
        self._tables = tables
        # All at once: the tables have no index on the conversation.
        self._responses: dict[object, list[dict[str, object]]] = {}
        for row in tables.rows("responses", _RESPONSES["responses"], "id"):
            self._responses.setdefault(row["conversation_id"], []).append(row)
        self._fragments = {table: tables.fragments(table, "response_id") for table in _FRAGMENTS}

    def sessions(self, *, first: int) -> Iterator[SessionArchive]:
        """Yield every conversation that has a message; ids of conversations count up with time."""
        rows = self._tables.rows("conversations", _RESPONSES["conversations"], "id")
        yield from _numbered(
            self._source, first, (("conversations", partial(self._session, row)) for row in rows)
        )
        # The remaining rows belong to no conversation.
        for key, responses in self._responses.items():
            self._source.leave_out(
                "responses without a conversation", len(responses), where=f"responses of {key!r}"
            )

    def _session(self, row: dict[str, object], number: int) -> SessionArchive | None:
        said: list[tuple[Role, str]] = []
        moments: list[datetime] = []
        for role, text, moment in self._said(self._responses.pop(row["id"], [])):
            self._tables.check_count(f"conversations[{_shown(row['id'])}]", len(said) + 1)
            said.append((role, text))
            moments.append(moment)
        if not said:
            self._source.leave_out("conversations without messages")
            return None
        name = self._tables.name(row["name"], number)
        return in_a_row(name, said, created=moments[0], moments=moments)

    def _said(self, responses: list[dict[str, object]]) -> Iterator[tuple[Role, str, datetime]]:
        system = ""
        for row in responses:
            where = f"responses[{_shown(row['id'])}]"
            moment = self._tables.moment(where, row["datetime_utc"]) or self._source.now
            instruction = self._joined(where, "system", row)
            if instruction and instruction != system:
                system = instruction
                yield "system", system, moment
            prompt = self._joined(where, "prompt", row)
            response = self._tables.text(where, "response", row["response"])
            for role, text in (("user", prompt), ("assistant", response)):
                if text.strip():
                    yield cast("Role", role), text, moment
                else:
                    # With tools, a reply can be nothing but a call, and a prompt nothing but a result.
                    self._source.leave_out("messages without text", where=where)

    def _joined(self, where: str, field: str, row: dict[str, object]) -> str:
        table = f"{field}_fragments"
        fragments = self._fragments[table].get(row["id"], [])
        return self._tables.joined(where, field, fragments, row[field], _FRAGMENTS[table])


class _Threads:
    """Conversations as llm stores them from 0.32 on: a tree of messages, and turns that point into it."""

    def __init__(self, source: Source, tables: _Tables) -> None:
        self._source = source
        self._tables = tables
        self._messages = {row["hash"]: row for row in tables.rows("messages", _THREADS["messages"], "rowid")}
        self._parts: dict[object, list[dict[str, object]]] = {}
        for row in tables.rows("parts", _THREADS["parts"], "message_hash, position"):
            self._parts.setdefault(row["message_hash"], []).append(row)
        self._fragments = tables.fragments("part_fragments", "part_id")
        self._turns: dict[object, list[dict[str, object]]] = {}
        for row in tables.rows("turns", _THREADS["turns"], "id"):
            self._turns.setdefault(row["thread_id"], []).append(row)

    def sessions(self, *, first: int) -> Iterator[SessionArchive]:
        """Yield every thread that has a message; ids of threads count up with time."""
        rows = self._tables.rows("threads", _THREADS["threads"], "id")
        yield from _numbered(self._source, first, (("threads", partial(self._session, row)) for row in rows))
        for key, turns in self._turns.items():
            self._source.leave_out("turns without a thread", len(turns), where=f"turns of {key!r}")

    def _session(self, row: dict[str, object], number: int) -> SessionArchive | None:
        where = f"threads[{_shown(row['id'])}]"
        created = self._tables.moment(where, row["datetime_utc"]) or self._source.now
        # The message of each hash in our tree: its own, or for one that is left out its parent's.
        stands: dict[object, object] = {}
        drafts: list[Draft] = []
        for turn in self._turns.pop(row["id"], []):
            place = f"turns[{_shown(turn['id'])}]"
            moment = self._tables.moment(place, turn["datetime_utc"]) or created
            self._walk(turn["tip_message_hash"], place, moment, stands, drafts)
        tip = row["tip_message_hash"]
        self._walk(tip, where, created, stands, drafts)
        if not drafts:
            self._source.leave_out("conversations without messages", where=where)
            return None
        head = stands[tip] if tip is not None else drafts[-1].key
        name = self._tables.name(row["name"], number)
        return session_of(name, drafts, head=cast("str", head), created=created)

    def _walk(
        self, tip: object, where: str, moment: datetime, stands: dict[object, object], drafts: list[Draft]
    ) -> None:
        """Add the messages from the first that is not known yet to ``tip``."""
        new: list[dict[str, object]] = []
        seen: set[object] = set()
        at = tip
        while at is not None and at not in stands:
            if at in seen:
                self._tables.refuse(where, f"message {_shown(at)} is its own ancestor: a circle of parents")
            message = self._messages.get(at)
            if message is None:
                self._tables.refuse(where, f"there is no message {_shown(at)}")
            seen.add(at)
            new.append(message)
            at = message["parent_hash"]
        for message in reversed(new):
            key, parent = message["hash"], message["parent_hash"]
            above = None if parent is None else stands[parent]
            stands[key] = above
            said = self._said(message)
            if said is not None:
                self._tables.check_count(where, len(drafts) + 1)
                role, text = said
                drafts.append(
                    Draft(key=cast("str", key), parent=above, role=role, content=text, created=moment)
                )
                stands[key] = key

    def _said(self, message: dict[str, object]) -> tuple[Role, str] | None:
        key = message["hash"]
        where = f"messages[{_shown(key)}]"
        role = message["role"]
        if not isinstance(role, str) or role not in _ROLES:
            expected = " or ".join(map(repr, _ROLES))
            self._tables.refuse(f"{where}.role", f"{quoted(role)} is not known: expected {expected}")
        known = _ROLES[role]
        texts: list[str] = []
        for part in self._parts.get(key, []):
            kind = part["type"]
            place = f"parts of {where}"
            if kind == "text" and known is not None:
                fragments = self._fragments.get(part.get("id"), [])
                texts.append(self._tables.joined(place, "text", fragments, part["text"], "\n"))
            else:
                what = _PARTS.get(
                    str(kind), "messages of tools" if kind == "text" else f"parts of type {quoted(kind)}"
                )
                self._source.leave_out(what, where=place)
        text = self._tables.text(where, "text", "\n".join(texts))
        return (known, text) if known is not None and text.strip() else None


def _shown(key: object) -> str:
    return quoted(key)
