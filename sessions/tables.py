"""The schema as it is now: four tables, their keys, checks and indexes.

Rows never leave the package; ``records`` has their frozen counterparts. The schema is made by the
migrations alone, and a test holds that they arrive exactly here. The full-text index over the messages is
no table of ours: ``search`` says how each database keeps it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    UniqueConstraint,
)
from sqlalchemy.orm import declared_attr, registry
from sqlmodel import Field, SQLModel

from sessions.column_types import BigKey, FaithfulText, UtcTime

# A registry of our own: what a user's program defines with SQLModel stays out of our schema.
schema = MetaData()


class Row(SQLModel, registry=registry(metadata=schema)):
    """Base of the tables below. Keys are typed ``int``: they are None only until the row is flushed."""

    @declared_attr  # pyright: ignore[reportArgumentType] - SQLModel declares it in the same way
    def __tablename__(cls) -> str:  # noqa: N805  # pyright: ignore[reportIncompatibleVariableOverride]
        """Name the table as the class, without its suffix."""
        return cls.__name__.removesuffix("Row").lower()  # pyright: ignore


class CheckpointRow(Row, table=True):
    """A checkpoint that replies were made with; one row a fingerprint."""

    __table_args__ = (
        UniqueConstraint("fingerprint", name="uq_checkpoint_fingerprint"),
        {"sqlite_autoincrement": True},
    )

    id: int = Field(default=None, sa_column=Column(BigKey, primary_key=True))
    fingerprint: str = Field(sa_column=Column(String(200), nullable=False))
    parts: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    config: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    step: int | None = Field(sa_column=Column(BigInteger))
    path: str = Field(sa_column=Column(FaithfulText, nullable=False))
    created: datetime = Field(sa_column=Column(UtcTime, nullable=False))


class SessionRow(Row, table=True):
    """A named head. Resets, retries and forks move heads or add some; messages never change."""

    __table_args__ = (
        UniqueConstraint("name", name="uq_session_name"),
        # Sessions and messages refer to each other; use_alter lets a database with ALTER add this key last.
        ForeignKeyConstraint(["head_id"], ["message.id"], name="fk_session_head", use_alter=True),
        ForeignKeyConstraint(["forked_from"], ["session.id"], name="fk_session_forked_from"),
        Index("ix_session_last_used", "last_used"),
        # When messages are purged, the database asks whether a head is among them.
        Index("ix_session_head", "head_id"),
        {"sqlite_autoincrement": True},
    )

    id: int = Field(default=None, sa_column=Column(BigKey, primary_key=True))
    name: str = Field(sa_column=Column(String(200), nullable=False))
    seed: int = Field(sa_column=Column(BigInteger, nullable=False))
    settings: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    head_id: int | None = Field(default=None, sa_column=Column(BigInteger))
    forked_from: int | None = Field(default=None, sa_column=Column(BigInteger))
    created: datetime = Field(sa_column=Column(UtcTime, nullable=False))
    last_used: datetime = Field(sa_column=Column(UtcTime, nullable=False))
    archived: bool = Field(default=False, sa_column=Column(Boolean, nullable=False))
    forked_at: int | None = Field(default=None, sa_column=Column(BigInteger))


class MessageRow(Row, table=True):
    """A message: written once, never changed. Its path is the chain of its parents."""

    __table_args__ = (
        ForeignKeyConstraint(["session_id"], ["session.id"], name="fk_message_session"),
        ForeignKeyConstraint(["parent_id"], ["message.id"], name="fk_message_parent"),
        CheckConstraint("role IN ('system', 'user', 'assistant')", name="ck_message_role"),
        CheckConstraint("status IN ('complete', 'cancelled')", name="ck_message_status"),
        CheckConstraint("(parent_id IS NULL) = (position = 0)", name="ck_message_position"),
        # Counts and first words of the session list come out of this index.
        Index("ix_message_session_role", "session_id", "role", "id"),
        Index("ix_message_parent", "parent_id"),
        {"sqlite_autoincrement": True},
    )

    id: int = Field(default=None, sa_column=Column(BigKey, primary_key=True))
    session_id: int = Field(sa_column=Column(BigInteger, nullable=False))
    parent_id: int | None = Field(sa_column=Column(BigInteger))
    position: int = Field(sa_column=Column(Integer, nullable=False))
    role: str = Field(sa_column=Column(String(20), nullable=False))
    content: str = Field(sa_column=Column(FaithfulText, nullable=False))
    token_ids: list[int] | None = Field(sa_column=Column(JSON(none_as_null=True)))
    status: str = Field(sa_column=Column(String(20), nullable=False))
    digest: str = Field(sa_column=Column(String(64), nullable=False))
    created: datetime = Field(sa_column=Column(UtcTime, nullable=False))


class GenerationRow(Row, table=True):
    """One attempt at a reply: what was asked for at the beginning, and its outcome at the end."""

    __table_args__ = (
        UniqueConstraint("reply_id", name="uq_generation_reply"),
        ForeignKeyConstraint(["session_id"], ["session.id"], name="fk_generation_session"),
        ForeignKeyConstraint(["user_message_id"], ["message.id"], name="fk_generation_user_message"),
        ForeignKeyConstraint(["reply_id"], ["message.id"], name="fk_generation_reply"),
        ForeignKeyConstraint(["checkpoint_id"], ["checkpoint.id"], name="fk_generation_checkpoint"),
        CheckConstraint(
            "status IN ('pending', 'complete', 'cancelled', 'failed')", name="ck_generation_status"
        ),
        CheckConstraint(
            "(reply_id IS NOT NULL) = (status IN ('complete', 'cancelled'))", name="ck_generation_reply"
        ),
        Index("ix_generation_session_status", "session_id", "status"),
        # The list of sessions shows the checkpoint of each one's latest generation.
        Index("ix_generation_session", "session_id", "id"),
        Index("ix_generation_user_message", "user_message_id"),
        {"sqlite_autoincrement": True},
    )

    id: int = Field(default=None, sa_column=Column(BigKey, primary_key=True))
    session_id: int = Field(sa_column=Column(BigInteger, nullable=False))
    user_message_id: int = Field(sa_column=Column(BigInteger, nullable=False))
    reply_id: int | None = Field(default=None, sa_column=Column(BigInteger))
    checkpoint_id: int = Field(sa_column=Column(BigInteger, nullable=False))
    seed: int = Field(sa_column=Column(BigInteger, nullable=False))
    attempt: int = Field(sa_column=Column(BigInteger, nullable=False))
    sampling: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    max_new_tokens: int = Field(sa_column=Column(BigInteger, nullable=False))
    prompt_hash: str = Field(sa_column=Column(String(200), nullable=False))
    trimmed_turns: int = Field(sa_column=Column(BigInteger, nullable=False))
    environment: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    status: str = Field(sa_column=Column(String(20), nullable=False))
    finish_reason: str | None = Field(default=None, sa_column=Column(String(200)))
    receipt: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    timings: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    error: str | None = Field(default=None, sa_column=Column(FaithfulText))
    created: datetime = Field(sa_column=Column(UtcTime, nullable=False))
    finished: datetime | None = Field(default=None, sa_column=Column(UtcTime))
    # None in rows from before there were such columns.
    forced_ids: list[int] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    digest: str | None = Field(default=None, sa_column=Column(String(64)))
