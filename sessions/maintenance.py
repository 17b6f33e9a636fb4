"""Examine the whole store: file structure, references, search indexes, rows, digests and checksums."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from sqlalchemy.orm import aliased
from sqlmodel import Session as Transaction
from sqlmodel import col, func, select

from sessions import search
from sessions.database import Database
from sessions.errors import StoreDamaged
from sessions.fields import read
from sessions.integrity import checksum_fault, generation_faults, message_faults
from sessions.records import Checkpoint, Fault, Generation, Health, Message, Session
from sessions.sqlite_connection import structure_faults
from sessions.tables import CheckpointRow, GenerationRow, MessageRow, Row, SessionRow

_AT_ONCE = 500  # rows in memory


def examine(database: Database) -> Health:
    """Return what is wrong with the store. A damaged one raises nothing but is described."""
    faults: list[str] = []
    sessions = without_checksum = 0
    try:
        with database.snapshot() as copy:
            for part in (_structure_faults, _row_faults, _index_faults):
                _collect(faults, part(copy))
            with copy.reading() as transaction:
                sessions = _count(transaction, SessionRow)
                without_checksum = sum(
                    _count(transaction, table, unchecked=True)
                    for table in (SessionRow, CheckpointRow, MessageRow, GenerationRow)
                )
    except StoreDamaged as error:
        faults.append(str(error))
    return Health(faults=tuple(dict.fromkeys(faults)), sessions=sessions, without_checksum=without_checksum)


def _collect(faults: list[str], found: Iterator[str]) -> None:
    """Add the faults of one part, up to damage that prevents the rest of it from being read."""
    try:
        faults.extend(found)
    except StoreDamaged as error:
        faults.append(str(error))


def _structure_faults(database: Database) -> Iterator[str]:
    with database.reading() as transaction:
        yield from structure_faults(transaction.connection())


def _index_faults(database: Database) -> Iterator[str]:
    with database.writing() as transaction:
        yield from search.index_faults(transaction)


def _row_faults(database: Database) -> Iterator[str]:
    with database.reading() as transaction:
        yield from _plain_faults(transaction, CheckpointRow, Checkpoint)
        yield from _plain_faults(transaction, SessionRow, Session)
        yield from _message_faults(transaction)
        yield from _generation_faults(transaction)


def _plain_faults(
    transaction: Transaction,
    table: type[CheckpointRow] | type[SessionRow],
    record: type[Checkpoint] | type[Session],
) -> Iterator[str]:
    for row in transaction.exec(select(table).order_by(col(table.id)).execution_options(yield_per=_AT_ONCE)):
        try:
            read(record, row)
        except StoreDamaged as error:
            yield str(error)
        else:
            yield from _checksum_faults(row)


def _message_faults(transaction: Transaction) -> Iterator[str]:
    parent = aliased(MessageRow)
    rows = transaction.exec(
        select(MessageRow, parent)
        .join(parent, col(MessageRow.parent_id) == col(parent.id), isouter=True)
        .order_by(col(MessageRow.id))
        .execution_options(yield_per=_AT_ONCE)
    )
    for row, above in rows:
        try:
            message = read(Message, row)
        except StoreDamaged as error:
            yield str(error)
            continue
        faults: list[Fault] = []
        # A parent that cannot be read is reported in its own place.
        with suppress(StoreDamaged):
            faults += message_faults(message, _message(above))
        yield from map(_line, faults) if faults else _checksum_faults(row)


def _generation_faults(transaction: Transaction) -> Iterator[str]:
    user, reply = aliased(MessageRow), aliased(MessageRow)
    rows = transaction.exec(
        select(GenerationRow, user, reply, CheckpointRow.fingerprint)
        .join(user, col(GenerationRow.user_message_id) == col(user.id), isouter=True)
        .join(reply, col(GenerationRow.reply_id) == col(reply.id), isouter=True)
        .join(CheckpointRow, col(GenerationRow.checkpoint_id) == col(CheckpointRow.id), isouter=True)
        .order_by(col(GenerationRow.id))
        .execution_options(yield_per=_AT_ONCE)
    )
    for row, asked, answer, fingerprint in rows:
        try:
            generation = read(Generation, row)
        except StoreDamaged as error:
            yield str(error)
            continue
        known = fingerprint if isinstance(fingerprint, str) else None  # pyright: ignore[reportUnnecessaryIsInstance]
        faults: list[Fault] = []
        with suppress(StoreDamaged):
            faults += generation_faults(generation, _message(asked), _message(answer), known)
        yield from map(_line, faults) if faults else _checksum_faults(row)


def _message(row: MessageRow | None) -> Message | None:
    return None if row is None else read(Message, row)


def _checksum_faults(row: CheckpointRow | SessionRow | MessageRow | GenerationRow) -> Iterator[str]:
    if not row.has_its_checksum():
        yield _line(checksum_fault(row))


def _count(transaction: Transaction, table: type[Row], *, unchecked: bool = False) -> int:
    query = select(func.count()).select_from(table)
    if unchecked:
        query = query.where(col(table.checksum).is_(None))
    return transaction.exec(query).one()


def _line(fault: Fault) -> str:
    return f"{fault.where} is {fault.got}, expected {fault.expected}"
