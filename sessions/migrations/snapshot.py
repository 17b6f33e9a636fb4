"""Create the newest schema in an empty SQLite database from one stored script, without importing Alembic.

The script holds what all migrations make of an empty database. `python -m sessions.migrations.snapshot`
writes it again; run it after adding a migration. Until then, new stores are migrated like old ones.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

from sqlalchemy import Connection, create_engine

from sessions.migrations import SHIPPED, VERSION_TABLE, MigrationChain, migrate

SNAPSHOT = Path(__file__).parent / "newest_sqlite.sql"
LEAST_SQLITE = (3, 34)
"""Older versions lack the trigram index: there the migrations leave it out."""


def create_newest(connection: Connection, chain: MigrationChain) -> bool:
    """Create the schema in an empty database, within its transaction; False if the script is not of it."""
    if connection.dialect.name != "sqlite" or sqlite3.sqlite_version_info < LEAST_SQLITE:
        return False
    with SNAPSHOT.open(encoding="utf-8") as script:
        if script.readline() != _first_line(chain):
            return False
        for statement in _statements(script):
            connection.exec_driver_sql(statement)
    return True


def script_of(chain: MigrationChain) -> str:
    """Return the script: a line with the revision, and the statements that `chain` leaves in a database."""
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        migrate(connection, chain)
        found = connection.exec_driver_sql(
            # Without what SQLite creates by itself: its own tables, and those behind a virtual table.
            "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite%' AND name NOT IN "
            "(SELECT name FROM pragma_table_list WHERE type = 'shadow') ORDER BY rowid"
        ).scalars()
        statements = [*found, f"INSERT INTO {VERSION_TABLE} VALUES ('{chain.head}')"]  # noqa: S608 - constants
    engine.dispose()
    return _first_line(chain) + "".join(f"{statement};\n" for statement in statements)


def _first_line(chain: MigrationChain) -> str:
    return f"-- revision {chain.head}, written by python -m sessions.migrations.snapshot\n"


def _statements(lines: Iterable[str]) -> Iterator[str]:
    """Yield the statements of a script; a trigger's own semicolons end none."""
    statement = ""
    for line in lines:
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


if __name__ == "__main__":
    SNAPSHOT.write_text(script_of(SHIPPED), encoding="utf-8", newline="\n")
