"""Add a checksum to every row, the path of its checkpoint to a generation, and a search without blanks."""

from __future__ import annotations

from sqlite3 import sqlite_version_info

import sqlalchemy as sa
from alembic import op

from sessions.migrations.folding import ACCENTED, PLAIN

revision = "0003"
down_revision = "0002"

TABLES = ("checkpoint", "session", "message", "generation")

# Languages that write words without blanks: Thai, Lao, Burmese and Khmer, kana, Han characters, Hangul. Only
# messages with such letters are indexed by trigrams, so that others cost nothing.
UNSPACED = (
    "*[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"
    "\U00020000-\U0003134f]*"
)
ADD = (
    "INSERT INTO message_trigrams (rowid, content) "
    f"SELECT new.id, new.content WHERE new.content GLOB '{UNSPACED}';"
)
REMOVE = (
    "INSERT INTO message_trigrams (message_trigrams, rowid, content) "
    f"SELECT 'delete', old.id, old.content WHERE old.content GLOB '{UNSPACED}';"
)
TABLE = "fts5(content, content='message', content_rowid='id', columnsize=0, tokenize='trigram')"
FILL = f"INSERT INTO message_trigrams (rowid, content) SELECT id, content FROM message WHERE content GLOB '{UNSPACED}'"  # noqa: E501, S608 - a constant
ON_UPDATE = "AFTER UPDATE OF id, content ON message"
SQLITE = [
    f"CREATE VIRTUAL TABLE message_trigrams USING {TABLE}",
    f"CREATE TRIGGER message_trigrams_added AFTER INSERT ON message BEGIN {ADD} END",
    f"CREATE TRIGGER message_trigrams_removed AFTER DELETE ON message BEGIN {REMOVE} END",
    f"CREATE TRIGGER message_trigrams_changed {ON_UPDATE} BEGIN {REMOVE} {ADD} END",
    FILL,
]
# Accents are folded by the index itself, as SQLite's does. Only the start of a long message is indexed: more
# than a megabyte of different words is an error there, and would refuse the message.
DOCUMENT = f"to_tsvector('simple', translate(left(content, 200000), '{ACCENTED}', '{PLAIN}'))"
POSTGRESQL = [
    "DROP INDEX message_words",
    f"CREATE INDEX message_plain_words ON message USING gin ({DOCUMENT})",
]
TRIGRAMS_SINCE = (3, 34)  # the version of SQLite


def upgrade() -> None:
    """Add the columns, then the index."""
    op.add_column("generation", sa.Column("checkpoint_path", sa.Text))
    for table in TABLES:
        op.add_column(table, sa.Column("checksum", sa.String(16)))
    dialect = op.get_context().dialect.name
    if dialect == "postgresql":
        statements = POSTGRESQL
    else:
        statements = SQLITE if dialect == "sqlite" and sqlite_version_info >= TRIGRAMS_SINCE else []
    for statement in statements:
        op.get_bind().exec_driver_sql(statement)
