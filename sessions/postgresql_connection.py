"""Set up connections to PostgreSQL: settings, transactions, and the meaning of errors.

The only module with SQL that is PostgreSQL's own, apart from the search. Writers do not exclude each other
there as they do in SQLite: a change locks its session's row, and the schema is created under a separate
lock.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError

from sessions.errors import StoreDamaged, StoreError, StoreFull, StoreLocked, StoreReadOnly, StoreUnavailable

# A read sees one state throughout; a write sees, after it got a row's lock, what the one before it left.
READING = {"isolation_level": "REPEATABLE READ"}
WRITING = {"isolation_level": "READ COMMITTED"}

_SCHEMA_LOCK = 0x6E69656C73677074  # "nielsgpt": a number that no other program is likely to lock


def set_up_connections(engine: Engine, *, timeout_seconds: float) -> None:
    """Make every connection of ``engine`` durable, and give up on a lock after the timeout."""

    def prepare(connection: Any, _record: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET synchronous_commit = on")
            cursor.execute(f"SET lock_timeout = {round(timeout_seconds * 1000)}")
        connection.commit()

    event.listen(engine, "connect", prepare)


def lock_schema(connection: Connection) -> None:
    """Wait until no other program makes or changes the schema; held until the transaction ends."""
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_SCHEMA_LOCK})")


# SQLSTATE codes, or their first two characters: the class that callers see, and what happened.
_MEANINGS: dict[str, tuple[type[StoreError], str]] = {
    "55P03": (StoreLocked, "is locked by another program: close that one, or try again"),
    "40001": (StoreLocked, "was changed by another program at the same moment: try again"),
    "40P01": (StoreLocked, "was changed by another program at the same moment: try again"),
    "25006": (StoreReadOnly, "cannot be written: the server takes no writes"),
    "42501": (StoreReadOnly, "cannot be written: ask for the right to create and change tables in it"),
    "53100": (StoreFull, "has no room left on its server: free some disk space, then repeat"),
    "XX001": (StoreDamaged, "is damaged on its server: restore a backup"),
    "XX002": (StoreDamaged, "is damaged on its server: restore a backup"),
    "53": (StoreUnavailable, "cannot be used, its server is short of something: try again later"),
    "57": (StoreUnavailable, "cannot be reached, its server is stopping or starting: try again"),
    "08": (StoreUnavailable, "cannot be reached: check the server and the network"),
}


def meaning_of(error: DBAPIError, place: str) -> StoreError:
    """Return the StoreError, not raised, that says what ``error`` means for the store at ``place``."""
    code = str(getattr(error.orig, "sqlstate", None) or ("08006" if error.connection_invalidated else ""))
    kind, text = (
        _MEANINGS.get(code) or _MEANINGS.get(code[:2]) or (StoreUnavailable, "cannot be used: check it")
    )
    said = " ".join(str(error.orig).split())
    return kind(f"the session store {place} {text} (the server says: {said})")
