"""Saving what can be read out of a damaged file into a new store in its place; the file itself is kept.

Rows are read one by one past what cannot be read, and only what hangs together is taken over: a message whose
digest holds and whose parent was saved, a generation whose question, reply and checkpoint were. No other
program may have the store open meanwhile, nor this one. Knows SQLite's file, and of conversations only their
tables.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import delete, func
from sqlmodel import Session as Transaction
from sqlmodel import col, select

from sessions import mutations, queries
from sessions.database import open_database
from sessions.errors import StoreDamaged
from sessions.integrity import generation_faults, message_faults
from sessions.sqlite_file import make_entry_durable
from sessions.tables import CheckpointRow, GenerationRow, MessageRow, Row, SessionRow

AnyRow = TypeVar("AnyRow", CheckpointRow, SessionRow, MessageRow, GenerationRow)

_TABLES: tuple[type[CheckpointRow | SessionRow | MessageRow | GenerationRow], ...] = (
    CheckpointRow,
    SessionRow,
    MessageRow,
    GenerationRow,
)
_SIDE_FILES = ("-journal", "-wal")  # belong to the file where a program was interrupted
_LAST_RESORT = 1_000_000  # ids tried where the file does not tell how many there are


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """Where the damaged file is kept, what was saved, and how many rows could be read but not trusted."""

    kept: Path
    sessions: int
    messages: int
    generations: int
    dropped: int


def recover_store(path: str | Path) -> Recovery:
    """Make a new store of what can be read in the file at ``path``, which is kept beside it as it was.

    Raises StoreDamaged, having changed nothing, where nothing of ours can be read.
    """
    place = Path(path).expanduser().resolve()
    with tempfile.TemporaryDirectory(prefix=f".{place.name}.", dir=place.parent) as folder:
        copy, fresh = Path(folder) / "copy.db", Path(folder) / "fresh.db"
        for suffix in ("", *_SIDE_FILES):
            with suppress(FileNotFoundError):
                shutil.copyfile(f"{place}{suffix}", f"{copy}{suffix}")
        database = open_database(fresh)
        try:
            read = _copy_rows(copy, fresh)
            if not read:
                raise StoreDamaged(f"nothing can be read in {place}; it was left as it is: restore a backup")
            with database.writing() as transaction:
                transaction.connection().exec_driver_sql("PRAGMA defer_foreign_keys = ON")
                _prune(transaction)
                sessions, messages, generations, checkpoints = (
                    transaction.exec(select(func.count()).select_from(table)).one()
                    for table in (SessionRow, MessageRow, GenerationRow, CheckpointRow)
                )
        finally:
            database.close()
        kept = _swap(place, fresh)
    saved = sessions + messages + generations + checkpoints
    return Recovery(
        kept=kept, sessions=sessions, messages=messages, generations=generations, dropped=max(0, read - saved)
    )


def _copy_rows(damaged: Path, fresh: Path) -> int:
    """Copy every row that can be read and fits its table; return how many."""
    read = 0
    with closing(sqlite3.connect(damaged)) as source, closing(sqlite3.connect(fresh)) as target:
        for table in _TABLES:
            with suppress(sqlite3.Error):
                columns = _columns(source, table)
                insert = _insert(table, columns)
                for row in _readable_rows(source, table, columns):
                    # A value that its table does not allow is damage too.
                    with suppress(sqlite3.Error):
                        target.execute(insert, row)
                        read += 1
        target.commit()
    return read


def _columns(source: sqlite3.Connection, table: type[Row]) -> list[str]:
    # A file of an earlier version has fewer.
    name = _name(table)
    there = {row[1] for row in source.execute(f"PRAGMA table_info({name})")}
    return [column.name for column in table.metadata.tables[name].columns if column.name in there]


def _insert(table: type[Row], columns: list[str]) -> str:
    marks = ", ".join("?" for _ in columns)
    return f"INSERT INTO {_name(table)} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608 - our own names


def _name(table: type[Row]) -> str:
    return table.__name__.removesuffix("Row").lower()


def _readable_rows(
    source: sqlite3.Connection, table: type[Row], columns: list[str]
) -> Iterator[tuple[Any, ...]]:
    """Give the rows by id, halving each range that meets damage until that is left out."""
    name = _name(table)
    wanted = f"SELECT {', '.join(columns)} FROM {name} WHERE id BETWEEN ? AND ? ORDER BY id"  # noqa: S608
    ranges = [(1, _greatest_id(source, name))]
    while ranges:
        first, last = ranges.pop()
        try:
            rows = source.execute(wanted, (first, last)).fetchall()
        except sqlite3.Error:
            if first < last:
                middle = (first + last) // 2
                ranges += [(middle + 1, last), (first, middle)]
            continue
        yield from rows


def _greatest_id(source: sqlite3.Connection, name: str) -> int:
    for query in (
        f"SELECT max(id) FROM {name}",  # noqa: S608
        f"SELECT seq FROM sqlite_sequence WHERE name = '{name}'",  # noqa: S608
    ):
        with suppress(sqlite3.Error):
            found = source.execute(query).fetchone()
            if found and isinstance(found[0], int):
                return found[0]
    return _LAST_RESORT


def _prune(transaction: Transaction) -> None:
    """Leave what hangs together: no row without what it refers to, no digest that does not hold."""
    checkpoints = {row.id for row in _loadable(transaction, CheckpointRow)}
    sessions = {row.id: row for row in _loadable(transaction, SessionRow)}
    messages: dict[int, int] = {}
    for row in _loadable(transaction, MessageRow):
        above = None if row.parent_id not in messages else transaction.get_one(MessageRow, row.parent_id)
        parent = None if above is None else queries.message_record(above)
        if any(message_faults(queries.message_record(row), parent)):
            transaction.delete(row)
            transaction.flush()
        else:
            messages[row.id] = row.session_id
    for session_id in set(messages.values()) - set(sessions):
        row = mutations.new_session(f"recovered-{session_id}", seed=0, settings={})
        row.id = session_id
        transaction.add(row)
        sessions[session_id] = row
    for row in sessions.values():
        _stand_on_what_is_left(row, messages, set(sessions))
    for row in _loadable(transaction, GenerationRow):
        if (
            row.session_id not in sessions
            or row.checkpoint_id not in checkpoints
            or not _holds(transaction, row)
        ):
            transaction.delete(row)
    transaction.flush()


def _stand_on_what_is_left(session: SessionRow, messages: dict[int, int], sessions: set[int]) -> None:
    if session.head_id not in messages:
        own = [message_id for message_id, owner in messages.items() if owner == session.id]
        session.head_id = max(own, default=None)
    if session.forked_at not in messages:
        session.forked_at = None
    if session.forked_from not in sessions:
        session.forked_from = None


def _holds(transaction: Transaction, row: GenerationRow) -> bool:
    user = transaction.get(MessageRow, row.user_message_id)
    reply = None if row.reply_id is None else transaction.get(MessageRow, row.reply_id)
    faults = generation_faults(
        queries.generation_record(row),
        None if user is None else queries.message_record(user),
        None if reply is None else queries.message_record(reply),
        transaction.get_one(CheckpointRow, row.checkpoint_id).fingerprint,
    )
    return not any(faults)


def _loadable(transaction: Transaction, table: type[AnyRow]) -> Iterator[AnyRow]:
    """Give the rows by id, deleting those whose values make no sense, such as JSON that is none."""
    ids = transaction.exec(select(col(table.id)).order_by(col(table.id))).all()
    for row_id in ids:
        try:
            row = transaction.get_one(table, row_id)
        except (StoreDamaged, TypeError, ValueError):
            transaction.exec(delete(table).where(col(table.id) == row_id))
        else:
            yield row


def _swap(place: Path, fresh: Path) -> Path:
    """Put the new store in the place of the damaged one, which gets another name; return that."""
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    kept = place.with_name(f"{place.name}.damaged-{moment}-{secrets.token_hex(3)}")
    try:
        os.link(place, kept)
    except OSError:
        shutil.copy2(place, kept)
    # An old journal would be played back over the new store.
    for suffix in _SIDE_FILES:
        with suppress(FileNotFoundError):
            Path(f"{place}{suffix}").rename(f"{kept}{suffix}")
    make_entry_durable(place.parent)
    fresh.replace(place)
    make_entry_durable(place.parent)
    return kept
