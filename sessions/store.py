"""The store: sessions, their messages and their generations, each change one durable transaction.

Messages form trees and never change; a session is a named head. A session waits for at most one reply at a
time: while a generation is pending, its head stays where it is, so two programs cannot interleave turns.
Every method may be called from any thread; when a method that writes returns, what it wrote survives a
crash and a power cut; when it raises, nothing was written.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from sessions.branches import Branches
from sessions.database import open_database
from sessions.maintenance import Care
from sessions.session_crud import Catalogue
from sessions.sqlite_file import default_path
from sessions.transfer import Archives
from sessions.turns import Turns


def open_store(url_or_path: str | Path | None = None) -> Store:
    """Open the store at a path or SQLAlchemy URL (None: the user's own), making it where there is none.

    Raises StoreUnavailable (StoreLocked, StoreReadOnly, StoreFull), NotAStore, StoreDamaged, SchemaTooNew;
    a file that is refused stays as it was.
    """
    return Store(open_database(default_path() if url_or_path is None else url_or_path))


class Store(Catalogue, Branches, Turns, Archives, Care):
    """Conversations in one database. A context manager; ``close`` ends it, StoreClosed follows then."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def caution(self) -> str | None:
        """One line that whoever uses the store should read, such as that it lies on a network mount."""
        return self._database.caution

    def close(self) -> None:
        """Close the database; what was acknowledged is durable already. Closing again is harmless."""
        self._database.close()
