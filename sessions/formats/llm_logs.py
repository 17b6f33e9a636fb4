"""Read the logs database of the `llm` command line tool: every conversation in it, oldest first.

llm has two schemas, and an upgraded database contains both: until 0.31 rows of
`conversations` and `responses`, from 0.32 on as `threads` and `turns` over a tree of `messages`, branches
included. Both are read.

The file is opened read only, and no view or trigger of its schema is run: only tables are read, with plain
queries.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from functools import partial
from typing import cast

from sessions.formats.builder import Draft, in_a_row, session_of
from sessions.formats.errors import ImportRefused, quoted
from sessions.formats.json_reader import Source
from sessions.formats.llm_tables import FRAGMENTS, RESPONSES, THREADS, LogTables, connected
from sessions.records import Role, SessionArchive

_MAGIC = b"SQLite format 3\0"
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
        with closing(connected(source)) as database:
            tables = LogTables(source, database)
            found = [
                each for each, needed in ((_Responses, RESPONSES), (_Threads, THREADS)) if tables.has(needed)
            ]
            if not found:
                tables.refuse_missing(RESPONSES)
            number = 0
            for kind in found:
                for archive in kind(source, tables).sessions(first=number + 1):
                    number += 1
                    yield archive
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise ImportRefused(source.name, "", f"cannot be read as a logs database ({error})") from error


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

    def __init__(self, source: Source, tables: LogTables) -> None:
        self._source = source
        self._tables = tables
        # All at once: the tables have no index on the conversation.
        self._responses: dict[object, list[dict[str, object]]] = {}
        for row in tables.rows("responses", RESPONSES["responses"], "id"):
            self._responses.setdefault(row["conversation_id"], []).append(row)
        self._fragments = {table: tables.fragments(table, "response_id") for table in FRAGMENTS}

    def sessions(self, *, first: int) -> Iterator[SessionArchive]:
        """Yield every conversation that has a message; ids of conversations count up with time."""
        rows = self._tables.rows("conversations", RESPONSES["conversations"], "id")
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
        return self._tables.joined(where, field, fragments, row[field], FRAGMENTS[table])


class _Threads:
    """Conversations as llm stores them from 0.32 on: a tree of messages, and turns that point into it."""

    def __init__(self, source: Source, tables: LogTables) -> None:
        self._source = source
        self._tables = tables
        self._messages = {row["hash"]: row for row in tables.rows("messages", THREADS["messages"], "rowid")}
        self._parts: dict[object, list[dict[str, object]]] = {}
        for row in tables.rows("parts", THREADS["parts"], "message_hash, position"):
            self._parts.setdefault(row["message_hash"], []).append(row)
        self._fragments = tables.fragments("part_fragments", "part_id")
        self._turns: dict[object, list[dict[str, object]]] = {}
        for row in tables.rows("turns", THREADS["turns"], "id"):
            self._turns.setdefault(row["thread_id"], []).append(row)

    def sessions(self, *, first: int) -> Iterator[SessionArchive]:
        """Yield every thread that has a message; ids of threads count up with time."""
        rows = self._tables.rows("threads", THREADS["threads"], "id")
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
