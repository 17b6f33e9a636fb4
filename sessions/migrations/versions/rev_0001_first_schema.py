"""The first schema: checkpoints, sessions as heads, messages as a tree, generations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

# SQLite makes a key its own row id only where the type is spelled INTEGER.
KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the four tables."""
    _checkpoint()
    _session()
    _message()
    _generation()
    if op.get_context().dialect.supports_alter:
        op.create_foreign_key("fk_session_head", "session", "message", ["head_id"], ["id"])


def _checkpoint() -> None:
    op.create_table(
        "checkpoint",
        sa.Column("id", KEY, primary_key=True),
        sa.Column("fingerprint", sa.String(200), nullable=False),
        sa.Column("parts", sa.JSON, nullable=False),
        sa.Column("config", sa.JSON, nullable=False),
        sa.Column("step", sa.BigInteger),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("fingerprint", name="uq_checkpoint_fingerprint"),
        sqlite_autoincrement=True,
    )


def _session() -> None:
    op.create_table(
        "session",
        sa.Column("id", KEY, primary_key=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("settings", sa.JSON, nullable=False),
        sa.Column("head_id", sa.BigInteger),
        sa.Column("forked_from", sa.BigInteger),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("last_used", sa.BigInteger, nullable=False),
        sa.Column("archived", sa.Boolean, nullable=False),
        sa.UniqueConstraint("name", name="uq_session_name"),
        # Sessions and messages refer to each other; where ALTER exists this key is added after both are made.
        sa.ForeignKeyConstraint(["head_id"], ["message.id"], name="fk_session_head", use_alter=True),
        sa.ForeignKeyConstraint(["forked_from"], ["session.id"], name="fk_session_forked_from"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_session_last_used", "session", ["last_used"])


def _message() -> None:
    op.create_table(
        "message",
        sa.Column("id", KEY, primary_key=True),
        sa.Column("session_id", sa.BigInteger, nullable=False),
        sa.Column("parent_id", sa.BigInteger),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("role", sa.String(20), nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("token_ids", sa.JSON),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(["session_id"], ["session.id"], name="fk_message_session"),
        sa.ForeignKeyConstraint(["parent_id"], ["message.id"], name="fk_message_parent"),
        sa.CheckConstraint("role IN ('system', 'user', 'assistant')", name="ck_message_role"),
        sa.CheckConstraint("status IN ('complete', 'cancelled')", name="ck_message_status"),
        sa.CheckConstraint("(parent_id IS NULL) = (position = 0)", name="ck_message_position"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_message_session_role", "message", ["session_id", "role", "id"])
    op.create_index("ix_message_parent", "message", ["parent_id"])


def _generation() -> None:
    op.create_table(
        "generation",
        sa.Column("id", KEY, primary_key=True),
        sa.Column("session_id", sa.BigInteger, nullable=False),
        sa.Column("user_message_id", sa.BigInteger, nullable=False),
        sa.Column("reply_id", sa.BigInteger),
        sa.Column("checkpoint_id", sa.BigInteger, nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("attempt", sa.BigInteger, nullable=False),
        sa.Column("sampling", sa.JSON, nullable=False),
        sa.Column("max_new_tokens", sa.BigInteger, nullable=False),
        sa.Column("prompt_hash", sa.String(200), nullable=False),
        sa.Column("trimmed_turns", sa.BigInteger, nullable=False),
        sa.Column("environment", sa.JSON, nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("finish_reason", sa.String(200)),
        sa.Column("receipt", sa.JSON),
        sa.Column("timings", sa.JSON),
        sa.Column("error", sa.Text),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("finished", sa.BigInteger),
        sa.UniqueConstraint("reply_id", name="uq_generation_reply"),
        sa.ForeignKeyConstraint(["session_id"], ["session.id"], name="fk_generation_session"),
        sa.ForeignKeyConstraint(["user_message_id"], ["message.id"], name="fk_generation_user_message"),
        sa.ForeignKeyConstraint(["reply_id"], ["message.id"], name="fk_generation_reply"),
        sa.ForeignKeyConstraint(["checkpoint_id"], ["checkpoint.id"], name="fk_generation_checkpoint"),
        sa.CheckConstraint(
            "status IN ('pending', 'complete', 'cancelled', 'failed')", name="ck_generation_status"
        ),
        sa.CheckConstraint(
            "(reply_id IS NOT NULL) = (status IN ('complete', 'cancelled'))", name="ck_generation_reply"
        ),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_generation_session_status", "generation", ["session_id", "status"])
    op.create_index("ix_generation_user_message", "generation", ["user_message_id"])
