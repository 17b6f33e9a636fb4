"""Recover the readable rows of a damaged file into a new store in its place, and keep the damaged file.

Rows are read past those that cannot be, and only consistent ones are kept: a message whose digest holds and
whose parent was kept, a generation whose question, reply and checkpoint were. Neither this program nor
another may have the store open meanwhile.
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
from itertools import chain, count
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import delete, func
from sqlmodel import Session as Transaction
from sqlmodel import col, select

from sessions import mutations
from sessions.database import open_database
from sessions.errors import StoreDamaged
from sessions.fields import read
from sessions.integrity import generation_faults, message_faults
from sessions.place import expanded
from sessions.records import Checkpoint, Generation, Message, Session
from sessions.sqlite_file import make_entry_durable
from sessions.tables import CheckpointRow, GenerationRow, MessageRow, Row, SessionRow

AnyRow = TypeVar("AnyRow", CheckpointRow, SessionRow, MessageRow, GenerationRow)
AnyRecord = TypeVar("AnyRecord", Checkpoint, Session, Message, Generation)

_TABLES: tuple[type[CheckpointRow | SessionRow | MessageRow | GenerationRow], ...] = (
    CheckpointRow,
    SessionRow,
    MessageRow,
    GenerationRow,
)
_SIDE_FILES = ("-journal", "-wal")  # left next to the file by a program that was interrupted
_GREATEST_ID = 1_000_000  # tried where the file does not tell it
_ATTEMPTS = 1000  # ranges that are read in the smallest file
_SMALLEST_ROW = 16  # bytes: no row of ours is smaller


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """The path of the damaged file, the rows that were kept, and how many were read but not consistent."""

    kept: Path
    sessions: int
    messages: int
    generations: int
    dropped: int


def recover_store(path: str | Path) -> Recovery:
    """Create a new store from the readable rows of the file at ``path``, which is kept next to it as it was.

    Raises StoreDamaged, having changed nothing, where no row can be read.
    """
    place = expanded(path).resolve()
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
                _delete_inconsistent(transaction)
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
                for row in _readable_rows(
                    source, table, columns, most=damaged.stat().st_size // _SMALLEST_ROW
                ):
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
    source: sqlite3.Connection, table: type[Row], columns: list[str], *, most: int
) -> Iterator[tuple[Any, ...]]:
    """Yield the rows by id, halving each range that meets damage until only the damage is left out.

    The work is bounded by ``most``, the number of rows that the file has room for: an id, or the counter of
    ids, can be damaged to anything.
    """
    name = _name(table)
    wanted = f"SELECT {', '.join(columns)} FROM {name} WHERE id BETWEEN ? AND ? ORDER BY id"  # noqa: S608
    ranges = [(1, _greatest_id(source, name))]
    attempts = _ATTEMPTS + 2 * most
    while ranges and attempts:
        attempts -= 1
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
    return _GREATEST_ID


def _delete_inconsistent(transaction: Transaction) -> None:
    """Delete rows whose values, references or digests are broken, and give the others their checksum."""
    checkpoints = {
        row.id: found.fingerprint for row, found in _readable(transaction, CheckpointRow, Checkpoint)
    }
    sessions = {row.id: row for row, _ in _readable(transaction, SessionRow, Session)}
    messages: dict[int, Message] = {}
    for row, message in _readable(transaction, MessageRow, Message):
        parent = None if message.parent_id is None else messages.get(message.parent_id)
        if any(message_faults(message, parent)):
            transaction.delete(row)
            transaction.flush()
        else:
            messages[row.id] = message
    owners = {message.session_id for message in messages.values()}
    for session_id in sorted(owners - set(sessions)):
        sessions[session_id] = _new_owner(transaction, session_id, {row.name for row in sessions.values()})
    for row in sessions.values():
        _use_kept_messages(row, messages, set(sessions))
    for row, generation in _readable(transaction, GenerationRow, Generation):
        faults = generation_faults(
            generation,
            messages.get(generation.user_message_id),
            None if generation.reply_id is None else messages.get(generation.reply_id),
            checkpoints.get(generation.checkpoint_id),
        )
        # A generation without a reply has no digest over its checkpoint.
        if (
            generation.session_id not in sessions
            or generation.checkpoint_id not in checkpoints
            or any(faults)
        ):
            transaction.delete(row)
    transaction.flush()


def _new_owner(transaction: Transaction, session_id: int, taken: set[str]) -> SessionRow:
    """Add a session for messages whose own session could not be read."""
    names = (f"recovered-{session_id}{suffix}" for suffix in chain([""], map("-{}".format, count(2))))
    row = mutations.new_session(next(each for each in names if each not in taken), seed=0, settings={})
    row.id = session_id
    transaction.add(row)
    return row


def _use_kept_messages(session: SessionRow, messages: dict[int, Message], sessions: set[int]) -> None:
    """Make the session refer to nothing that was not kept."""
    if session.head_id not in messages:
        own = [message.id for message in messages.values() if message.session_id == session.id]
        session.head_id = max(own, default=None)
    if session.forked_at not in messages:
        session.forked_at = None
    if session.forked_from not in sessions:
        session.forked_from = None


def _readable(
    transaction: Transaction, table: type[AnyRow], record: type[AnyRecord]
) -> Iterator[tuple[AnyRow, AnyRecord]]:
    """Yield the rows by id with their records, deleting rows with damaged values."""
    ids = transaction.exec(select(col(table.id)).order_by(col(table.id))).all()
    for row_id in ids:
        row = transaction.get_one(table, row_id)
        try:
            found = read(record, row)
        except StoreDamaged:
            transaction.expunge(row)
            transaction.exec(delete(table).where(col(table.id) == row_id))
        else:
            row.set_checksum()
            yield row, found


def _swap(place: Path, fresh: Path) -> Path:
    """Put the new store in the place of the damaged one; return the path of the damaged file."""
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
