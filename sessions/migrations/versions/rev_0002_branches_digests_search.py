"""Forks say where they part, generations what was forced and their digest; full-text search over messages."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

# The index reads the words out of the message table itself, and triggers keep it in step within whatever
# transaction changes a message, so that no program can forget to.
ADD = "INSERT INTO message_words (rowid, content) VALUES (new.id, new.content);"
REMOVE = "INSERT INTO message_words (message_words, rowid, content) VALUES ('delete', old.id, old.content);"
TABLE = "fts5(content, content='message', content_rowid='id', columnsize=0)"
SQLITE = [
    f"CREATE VIRTUAL TABLE message_words USING {TABLE}",
    f"CREATE TRIGGER message_words_added AFTER INSERT ON message BEGIN {ADD} END",
    f"CREATE TRIGGER message_words_removed AFTER DELETE ON message BEGIN {REMOVE} END",
    f"CREATE TRIGGER message_words_changed AFTER UPDATE OF id, content ON message BEGIN {REMOVE} {ADD} END",
    "INSERT INTO message_words (message_words) VALUES ('rebuild')",
]
# A document of more than a megabyte of different words is an error there, and would refuse the message.
POSTGRESQL = [
    "CREATE INDEX message_words ON message USING gin (to_tsvector('simple', left(content, 200000)))"
]
SEARCH = {"sqlite": SQLITE, "postgresql": POSTGRESQL}


def upgrade() -> None:
    """Add the columns, then the indexes."""
    op.add_column("session", sa.Column("forked_at", sa.BigInteger))
    op.add_column("generation", sa.Column("forced_ids", sa.JSON))
    op.add_column("generation", sa.Column("digest", sa.String(64)))
    op.create_index("ix_session_head", "session", ["head_id"])
    op.create_index("ix_generation_session", "generation", ["session_id", "id"])
    for statement in SEARCH.get(op.get_context().dialect.name, []):
        op.execute(statement)
