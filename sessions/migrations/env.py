"""What Alembic runs to migrate: our connection, already in a transaction, and our version table."""

from __future__ import annotations

from alembic import context

from sessions.migrations import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    version_table=VERSION_TABLE,
    # SQLite can roll back a half-made schema; Alembic assumes that it cannot.
    transactional_ddl=True,
)
context.run_migrations()
