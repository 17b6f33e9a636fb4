"""The schema's history: which revision a database has, and the way from there to the newest.

Revisions are append-only: one that was released is never edited. The stored revision is compared by a plain
query, because importing Alembic takes longer than opening the store; it is imported only to migrate. A new
SQLite store is created from a script instead (`snapshot`). All steps run in the caller's one transaction.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, inspect, text

from sessions.errors import NotAStore, SchemaTooNew, StoreDamaged

VERSION_TABLE = "niels_gpt_schema"


@dataclass(frozen=True)
class MigrationChain:
    """A folder with ``env.py`` and the steps in ``versions/``, and the steps' names, oldest first."""

    folder: Path
    revisions: tuple[str, ...]

    @property
    def head(self) -> str:
        """The newest revision."""
        return self.revisions[-1]


# Alembic hands its environment to the steps through module globals: one migration at a time in a process.
_alembic = threading.Lock()

SHIPPED = MigrationChain(Path(__file__).parent, ("0001", "0002", "0003"))


def stored_revision(connection: Connection, chain: MigrationChain, place: str) -> str | None:
    """Return the revision of the database, one of ``chain``, or None for a database without any table.

    SchemaTooNew for a revision that the chain does not have, NotAStore where only others' tables are,
    StoreDamaged where the revision is missing.
    """
    tables = inspect(connection)
    if not tables.has_table(VERSION_TABLE):
        others = tables.get_table_names()
        if others:
            raise NotAStore(
                f"the session store {place} belongs to something else (it has the table {others[0]!r}); "
                "it was left untouched: give another one"
            )
        return None
    found = connection.scalars(text(f"SELECT version_num FROM {VERSION_TABLE}")).all()  # noqa: S608 - a constant
    if len(found) != 1:
        raise StoreDamaged(
            f"the session store {place} names {len(found)} schema revisions, expected 1: restore a backup"
        )
    revision = str(found[0])
    if revision not in chain.revisions:
        raise SchemaTooNew(place, found=revision, known=chain.head)
    return revision


def migrate(connection: Connection, chain: MigrationChain) -> None:
    """Bring the database to the head of ``chain``, within the transaction that ``connection`` is in."""
    from alembic import command  # noqa: PLC0415 - see above: heavy, and seldom needed
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    # Alembic reads its options with "%" as a mark; folders may have one in their name.
    config.set_main_option("script_location", str(chain.folder).replace("%", "%%"))
    config.attributes["connection"] = connection
    with _alembic:
        command.upgrade(config, chain.head)
