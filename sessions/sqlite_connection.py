"""Set up connections to SQLite: pragmas, transactions, and the meaning of errors.

The only module with SQL that is SQLite's own. The journal depends on the version: before 3.51.3 two
connections in WAL mode can corrupt the file (the WAL-reset race), so those versions use the rollback journal,
whose removal EXTRA makes durable too.
"""

from __future__ import annotations

import random
import sqlite3
import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, event

from sessions.column_types import decoded_text
from sessions.errors import (
    NotAStore,
    StoreDamaged,
    StoreError,
    StoreFull,
    StoreLocked,
    StoreReadOnly,
    StoreUnavailable,
)

DEFAULT_TIMEOUT_SECONDS = 5.0
_PAUSE_SECONDS = 0.003  # on average, between two attempts to get a lock
WRITES = "sessions_writes"  # the execution option of connections that begin with the write lock

_SYNCHRONOUS_LEVELS = {"FULL": 2, "EXTRA": 3}


@dataclass(frozen=True)
class Journal:
    """A journal mode with the synchronous level that makes a commit survive a power cut in it."""

    mode: str
    synchronous: str


def journal_for(version: tuple[int, ...], *, network: bool = False) -> Journal:
    """Return the fastest journal that is safe in this version of SQLite.

    The write-ahead log needs memory that all programs share, which no network mount gives to two machines.
    """
    return Journal("wal", "FULL") if version >= (3, 51, 3) and not network else Journal("delete", "EXTRA")


def set_up_connections(engine: Engine, *, timeout_seconds: float, journal: Journal) -> None:
    """Make every connection of ``engine`` durable, checked and under SQLAlchemy's transaction control.

    Transactions begin with BEGIN IMMEDIATE where the execution option ``WRITES`` is set: a deferred one that
    turns to writing later fails at once, whatever the timeout. A setting that SQLite does not confirm raises
    StoreUnavailable when connecting.
    """

    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        # None takes transaction control from the driver; ``begin`` below is then the only one to begin.
        connection.isolation_level = None
        connection.text_factory = decoded_text
        _assert_pragmas(connection, timeout_seconds, journal)

    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(WRITES, False)
        opened = connection.connection.driver_connection
        assert isinstance(opened, sqlite3.Connection)  # noqa: S101 - the engine is SQLite's
        _begin(opened, writes=writes, timeout_seconds=timeout_seconds)

    event.listen(engine, "connect", prepare)
    event.listen(engine, "begin", begin)


def _begin(connection: sqlite3.Connection, *, writes: bool, timeout_seconds: float) -> None:
    """Begin a transaction that holds its lock, waiting for it as long as ``timeout_seconds``.

    SQLite itself asks for a lock every 100 ms in the end. Where several programs write without a pause, one
    of them is then never lucky, so the lock is asked for in short, uneven intervals here.
    """
    deadline = time.monotonic() + timeout_seconds
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
                if not writes:
                    connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()  # locks, for reading
            except sqlite3.OperationalError as error:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                left = deadline - time.monotonic()
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or left <= 0:
                    raise
                time.sleep(min(left, random.uniform(0.5, 1.5) * _PAUSE_SECONDS))  # noqa: S311 - no secret
            else:
                return
    finally:
        connection.execute(f"PRAGMA busy_timeout = {_milliseconds(timeout_seconds)}")


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _assert_pragmas(connection: sqlite3.Connection, timeout_seconds: float, journal: Journal) -> None:
    def value_of(pragma: str) -> Any:
        row = connection.execute(f"PRAGMA {pragma}").fetchone()
        return None if row is None else row[0]

    timeout_ms = _milliseconds(timeout_seconds)
    connection.execute(f"PRAGMA busy_timeout = {timeout_ms}")
    # Setting a mode takes locks, even to the mode that is there already.
    if value_of("journal_mode") != journal.mode:
        connection.execute(f"PRAGMA journal_mode = {journal.mode}")
    connection.execute(f"PRAGMA synchronous = {journal.synchronous}")
    connection.execute("PRAGMA foreign_keys = ON")
    expected = {
        "busy_timeout": timeout_ms,
        "journal_mode": journal.mode,
        "synchronous": _SYNCHRONOUS_LEVELS[journal.synchronous],
        "foreign_keys": 1,
    }
    found = {pragma: value_of(pragma) for pragma in expected}
    if found != expected:
        raise StoreUnavailable(
            f"SQLite {sqlite3.sqlite_version} did not take the settings that keep messages safe: "
            f"expected {expected}, found {found}; put the store on a local disk, or give another one"
        )


def structure_faults(connection: Connection) -> list[str]:
    """Return the faults that SQLite finds in its file and in references; [] for another database."""
    if connection.dialect.name != "sqlite":
        return []
    report = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
    strays = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    return [f"the file: {line}" for line in report if line != "ok"] + [
        f"row {stray[1]} of table {stray[0]} refers to a row of {stray[2]} that is not there"
        for stray in strays
    ]


# Primary result codes of SQLite: the class that callers see, and what happened, with what to do.
_MEANINGS: dict[int, tuple[type[StoreError], str]] = {
    sqlite3.SQLITE_BUSY: (StoreLocked, "is locked by another program: close that one, or try again"),
    sqlite3.SQLITE_LOCKED: (StoreLocked, "is locked by another program: close that one, or try again"),
    sqlite3.SQLITE_READONLY: (StoreReadOnly, "cannot be written: permit writing to the file and its folder"),
    sqlite3.SQLITE_PERM: (StoreReadOnly, "cannot be written: permit writing to the file and its folder"),
    sqlite3.SQLITE_FULL: (StoreFull, "has no room left: free some disk space, then repeat"),
    sqlite3.SQLITE_CANTOPEN: (
        StoreUnavailable,
        "cannot be opened: check that its folder exists and is yours",
    ),
    sqlite3.SQLITE_NOTADB: (NotAStore, "is not a session store; it was left untouched: give another path"),
    sqlite3.SQLITE_CORRUPT: (
        StoreDamaged,
        "is damaged; it was left as it is: restore a backup, or recover what can be read in it",
    ),
}


def meaning_of(error: sqlite3.Error, place: str) -> StoreError:
    """Return the StoreError, not raised, that says what ``error`` means for the store at ``place``."""
    # The low byte is the primary code. Errors of the driver itself, not of SQLite, have none.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    kind, text = _MEANINGS.get(
        code, (StoreUnavailable, "cannot be used: check the disk, or give another path")
    )
    return kind(f"the session store {place} {text} (SQLite says: {error})")
