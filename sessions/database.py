"""Open a database, create or migrate its schema, and run transactions on it.

Every error of a driver or of the file system becomes a StoreError here. One lock serialises the threads of
this process; the database's own write lock serialises programs.
"""

from __future__ import annotations

import errno
import os
import re
import sqlite3
import threading
import weakref
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Literal

from sqlalchemy import URL, Connection, Engine, create_engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlmodel import Session as Transaction

from sessions import postgresql_connection, sqlite_file
from sessions.claims import Claims
from sessions.column_types import read_json
from sessions.errors import StoreClosed, StoreFull, StoreNotFound, StoreReadOnly, StoreUnavailable
from sessions.migrations import SHIPPED, MigrationChain, migrate, stored_revision
from sessions.migrations.snapshot import create_newest
from sessions.network_fs import network_filesystem
from sessions.place import expanded, is_url, without_password
from sessions.sqlite_connection import (
    DEFAULT_TIMEOUT_SECONDS,
    WRITES,
    Journal,
    journal_for,
    meaning_of,
    set_up_connections,
)


class Database:
    """Transactions on one database, from any thread, one at a time.

    A ``with`` block over ``writing()`` commits durably when it ends, and rolls back when it raises.
    ``caution`` is a line that the user should read, such as that the file lies on a network mount.
    """

    def __init__(self, engine: Engine, place: str, *, file: Path | None = None) -> None:
        self._engine = engine
        self._place = place
        self._file = file
        self._lock = threading.Lock()
        self._closed = False
        self._left_behind = False
        self.caution: str | None = None
        _opened_here.add(self)

    def reading(self) -> AbstractContextManager[Transaction]:
        """Return a transaction that sees one state throughout. Raises StoreClosed, StoreUnavailable."""
        return self._transaction(writes=False)

    def writing(self) -> AbstractContextManager[Transaction]:
        """Return a transaction with the write lock from its first statement on. Raises as ``reading``."""
        return self._transaction(writes=True)

    def back_up(self, target: Path) -> None:
        """Copy a SQLite file, as committed, to a new private file. Raises InvalidValue, StoreUnavailable."""
        if self._file is None:
            raise StoreUnavailable(f"the session store {self._place} is not a file: back it up on its server")
        with _translated(str(target)):
            sqlite_file.copy(self._file, target)

    @contextmanager
    def snapshot(self) -> Generator[Database, None, None]:
        """Open a database of the committed state that can be read for long without making writers wait.

        For a SQLite file that is a private copy, removed afterwards; a server's readers block no writer.
        """
        if self._file is None:
            yield self
            return
        with _translated(self._place), sqlite_file.private_folder(self._file) as folder:
            copied = folder / self._file.name
            sqlite_file.copy(self._file, copied)
            url = URL.create("sqlite", database=str(copied))
            snapshot = Database(_sqlite_engine(url, journal_for(sqlite3.sqlite_version_info)), self._place)
            try:
                yield snapshot
            finally:
                snapshot.close()

    def claims(self) -> Claims | None:
        """Return claims on replies of this database; None for a SQLite file."""
        if self._engine.dialect.name != "postgresql":
            return None
        return Claims(self._engine, partial(_translated, self._place))

    def close(self) -> None:
        """Close the connections once no other thread is in a transaction; closing twice is harmless."""
        with self._lock:
            self._closed = True
            if not self._left_behind:
                self._engine.dispose()

    def before_fork(self) -> None:
        """Wait for a transaction of another thread: a child must not inherit half of one and roll it back."""
        self._lock.acquire()

    def after_fork(self, *, in_child: bool) -> None:
        """Continue; in the child without the parent's connections, whose locks are the parent's."""
        if in_child:
            self._left_behind = True
            self._engine.dispose(close=False)
        self._lock.release()

    @contextmanager
    def _transaction(self, *, writes: bool) -> Generator[Transaction, None, None]:
        with self._lock:
            if self._closed:
                raise StoreClosed(f"the session store {self._place} is closed: open it again")
            if self._left_behind:
                raise StoreClosed(
                    f"the session store {self._place} was opened before a fork of this process: open it again"
                )
            with (
                _translated(self._place),
                Transaction(_engine_for(self._engine, writes=writes), expire_on_commit=False) as transaction,
                transaction.begin(),
            ):
                yield transaction


_opened_here: weakref.WeakSet[Database] = weakref.WeakSet()
_held: list[Database] = []  # between a fork's beginning and its end


def _before_fork() -> None:
    for database in list(_opened_here):
        database.before_fork()
        _held.append(database)


def _after_fork(*, in_child: bool) -> None:
    while _held:
        _held.pop().after_fork(in_child=in_child)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=partial(_after_fork, in_child=False),
        after_in_child=partial(_after_fork, in_child=True),
    )


_BROKEN_URL = re.compile(r"((?:sqlite|postgres|postgresql|mysql|mariadb)(?:\+\w+)?)(?::|//)")
Missing = Literal["create", "create file", "refuse"]
"""What to do where there is no store: create it, with its folders or in a folder that exists, or refuse."""


def open_database(
    place: str | Path, chain: MigrationChain = SHIPPED, *, missing: Missing = "create"
) -> Database:
    """Open the store at a path or SQLAlchemy URL; create it where there is none, migrate it where it is old.

    A SQLite file is backed up before it is migrated.

    Raises:
        StoreNotFound: where there is none and ``missing`` does not permit to create it.
        StoreUnavailable: for a store that cannot be used (StoreLocked, StoreReadOnly, StoreFull).
        NotAStore, StoreDamaged, SchemaTooNew: for a file that is then left untouched.
    """
    url = _url_of(place)
    name = str(url.database) if url.get_backend_name() == "sqlite" else without_password(str(place))
    with _translated(name):
        if url.get_backend_name() == "sqlite":
            return _open_sqlite(url, chain, missing)
        return _opened(_server_engine(url), chain, name, file=None)


def _url_of(place: str | Path) -> URL:
    if isinstance(place, Path) or not is_url(place):
        scheme = _BROKEN_URL.match(str(place))
        if scheme is not None:
            # The rest may hold a password.
            raise StoreUnavailable(f"the store's URL begins with {scheme[0]!r}: expected {scheme[1]}://")
        return URL.create("sqlite", database=str(expanded(place)))
    shown = without_password(place)
    try:
        url = make_url(place)
        url.get_dialect()
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        # The error itself may quote the URL with its password.
        raise StoreUnavailable(
            f"{shown!r} is not a URL of a store: expected sqlite:///PATH or postgresql+psycopg://HOST/DATABASE"
        ) from error
    if url.get_backend_name() == "sqlite":
        _check_sqlite(url, shown)
    return url


def _check_sqlite(url: URL, shown: str) -> None:
    if url.database in {None, "", ":memory:"} or str(url.database).startswith("file:"):
        raise StoreUnavailable(
            f"the store {shown!r} is not a plain file, so nothing in it would last: give sqlite:///PATH"
        )
    for option in url.query:
        if option != "timeout":
            raise StoreUnavailable(
                f"the store {shown!r} has the option {option!r}: expected none but timeout, as in "
                "sqlite:///PATH?timeout=2.5"
            )


def _open_sqlite(url: URL, chain: MigrationChain, missing: Missing) -> Database:
    path = Path(str(url.database)).resolve()
    mount = network_filesystem(path)
    journal = journal_for(sqlite3.sqlite_version_info, network=mount is not None)
    created = not sqlite_file.is_there(path)
    if created:
        _require_permission(path, missing)
        with sqlite_file.new_file(path) as unfinished:
            engine = _sqlite_engine(url.set(database=str(unfinished)), journal)
            _opened(engine, chain, str(path), file=None).close()
    database = _opened(_sqlite_engine(url.set(database=str(path)), journal), chain, str(path), file=path)
    if created and missing == "create file":
        database.caution = f"created a new session store at {path}"
    if mount is not None:
        database.caution = (
            f"the session store {path} lies on a network mount ({mount}), and is as safe as its locks and "
            "syncs: use it from one machine at a time, or give a PostgreSQL URL"
        )
    return database


def _require_permission(path: Path, missing: Missing) -> None:
    if missing == "refuse":
        raise StoreNotFound(f"there is no session store at {str(path)!r}: give the path of one")
    if missing == "create file" and not path.parent.is_dir():
        raise StoreNotFound(
            f"there is no folder {str(path.parent)!r} to create a session store in: create the folder, or "
            "give another path"
        )


def _opened(engine: Engine, chain: MigrationChain, place: str, *, file: Path | None) -> Database:
    try:
        _bring_up_to_date(engine, chain, place, file=file)
    except BaseException:
        engine.dispose()
        raise
    return Database(engine, place, file=file)


def _sqlite_engine(url: URL, journal: Journal) -> Engine:
    timeout_seconds = _timeout_seconds(url)
    engine = create_engine(url, json_deserializer=read_json)
    set_up_connections(engine, timeout_seconds=timeout_seconds, journal=journal)
    return engine


def _server_engine(url: URL) -> Engine:
    timeout_seconds = _timeout_seconds(url)
    # A server may have been restarted since a connection was used last.
    engine = create_engine(
        url.difference_update_query(["timeout"]), pool_pre_ping=True, json_deserializer=read_json
    )
    if engine.dialect.name == "postgresql":
        postgresql_connection.set_up_connections(engine, timeout_seconds=timeout_seconds)
    return engine


def _timeout_seconds(url: URL) -> float:
    timeout = url.query.get("timeout", DEFAULT_TIMEOUT_SECONDS)
    try:
        return float(str(timeout))
    except ValueError as error:
        raise StoreUnavailable(f"the store's timeout is {timeout!r}: expected seconds, as in 2.5") from error


def _engine_for(engine: Engine, *, writes: bool) -> Engine:
    if engine.dialect.name == "postgresql":
        options = postgresql_connection.WRITING if writes else postgresql_connection.READING
        return engine.execution_options(**options)
    return engine.execution_options(**{WRITES: writes})


def _bring_up_to_date(engine: Engine, chain: MigrationChain, place: str, *, file: Path | None) -> None:
    with engine.connect() as connection:
        if stored_revision(connection, chain, place) == chain.head:
            return
    with _engine_for(engine, writes=True).begin() as connection:
        _migrate_under_lock(connection, chain, place, file=file)


def _migrate_under_lock(
    connection: Connection, chain: MigrationChain, place: str, *, file: Path | None
) -> None:
    if connection.dialect.name == "postgresql":
        postgresql_connection.lock_schema(connection)
    # Another process may have migrated before this one got the lock.
    revision = stored_revision(connection, chain, place)
    if revision == chain.head:
        return
    if file is not None and revision is not None:
        sqlite_file.back_up(file, f"schema-{revision}")
    if revision is not None or not create_newest(connection, chain):
        migrate(connection, chain)


@contextmanager
def _translated(place: str) -> Generator[None, None, None]:
    try:
        yield
    except DBAPIError as error:
        if isinstance(error.orig, sqlite3.Error):
            raise meaning_of(error.orig, place) from error
        raise postgresql_connection.meaning_of(error, place) from error
    except sqlite3.Error as error:
        raise meaning_of(error, place) from error
    except ModuleNotFoundError as error:
        raise StoreUnavailable(
            f"the session store {place} needs the driver {error.name!r}: install it"
        ) from error
    except PermissionError as error:
        raise StoreReadOnly(
            f"the session store {place} cannot be reached or made ({error}): permit access to it"
        ) from error
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StoreFull(
                f"the session store {place} has no room ({error}): free some disk space"
            ) from error
        raise StoreUnavailable(
            f"the session store {place} cannot be reached or made ({error}): give another path"
        ) from error
