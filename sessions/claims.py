"""Claim replies in a store that several servers share, so that each is made by one of them.

A claim is an advisory lock of PostgreSQL on a connection of its own. The database releases it when the
connection ends, however its program ends: no clock has to be trusted, and nothing has to be renewed. A
claim saves work. Correctness does not depend on it: two programs that make the same reply make the same
bytes, and the store takes the first.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from typing import Protocol

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

_NAMESPACE = 0x6E69656C  # "niel": the first half of the locks' keys
_HALF = 0xFFFF_FFFF


class Translation(Protocol):
    """Turns the errors of a driver into StoreErrors."""

    def __call__(self) -> AbstractContextManager[None]:
        """Return the context to run statements in."""
        ...


class Claims:
    """The replies that this program has claimed. Every method may be called from any thread."""

    def __init__(self, engine: Engine, translated: Translation) -> None:
        self._engine = engine
        self._translated = translated
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._held: set[int] = set()

    @property
    def held(self) -> frozenset[int]:
        """The replies that are claimed by this program."""
        with self._lock:
            return frozenset(self._held)

    def take(self, generation_id: int) -> bool:
        """Claim a reply; return False if another program has claimed it. Raises StoreUnavailable."""
        with self._lock, self._translated():
            if generation_id in self._held:
                return True
            if self._is_true("pg_try_advisory_lock", generation_id):
                self._held.add(generation_id)
                return True
            return False

    def release(self, generation_id: int) -> None:
        """Give a claim back; one that is not held changes nothing. Raises StoreUnavailable."""
        with self._lock, self._translated():
            if generation_id in self._held:
                self._held.discard(generation_id)
                self._is_true("pg_advisory_unlock", generation_id)

    def close(self) -> None:
        """Give all claims back; closing twice is harmless."""
        with self._lock:
            self._held.clear()
            if self._connection is not None:
                self._connection.detach()  # a pooled connection would keep the locks
                self._connection.close()
                self._connection = None

    def _is_true(self, function: str, generation_id: int) -> bool:
        statement = f"SELECT {function}({_NAMESPACE}, {_signed(generation_id & _HALF)})"
        try:
            return bool(self._open().exec_driver_sql(statement).scalar_one())
        except DBAPIError as error:
            if error.connection_invalidated:
                # The database has released everything with the connection.
                self._held.clear()
                self._connection = None
            raise

    def _open(self) -> Connection:
        if self._connection is None:
            engine = self._engine.execution_options(isolation_level="AUTOCOMMIT")
            self._connection = engine.connect()
        return self._connection


def _signed(half: int) -> int:
    """Return 32 bits as the signed number that PostgreSQL takes."""
    return half - (1 << 32) if half >= 1 << 31 else half
