"""The current schema: four tables, their keys, checks and indexes.

Rows never leave the package; ``records`` has their frozen counterparts, with the same fields. Only the
migrations create the schema, and a test holds that they arrive exactly here. The full-text indexes over the
messages are not tables of this schema: ``search`` says how each database keeps them.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    UniqueConstraint,
    event,
    inspect,
)
from sqlalchemy.orm import declared_attr, registry
from sqlalchemy.orm.attributes import get_history
from sqlmodel import Field, SQLModel

from sessions.column_types import BigKey, FaithfulText, Flag, UtcTime
from sessions.fields import checksum

# A separate registry: tables that a user's program defines with SQLModel stay out of this schema.
schema = MetaData()


class Row(SQLModel, registry=registry(metadata=schema)):
    """Base of the tables below. Keys are typed ``int``: they are None only until the row is flushed.

    Every write through the mapper sets the row's ``checksum``. Rows from before schema 0003 have none.
    """

    id: int
    checksum: str | None

    @declared_attr  # pyright: ignore[reportArgumentType] - SQLModel declares it in the same way
    def __tablename__(cls) -> str:  # noqa: N805  # pyright: ignore[reportIncompatibleVariableOverride]
        """Name the table as the class, without its suffix."""
        return cls.__name__.removesuffix("Row").lower()  # pyright: ignore

    def has_its_checksum(self) -> bool:
        """Return whether the values are those of the last write; True for a row without a checksum."""
        return self.checksum is None or self.checksum == checksum(self.values())

    def set_checksum(self) -> None:
        """Set the checksum of the present values."""
        self.checksum = checksum(self.values())

    def values(self) -> dict[str, Any]:
        """Return the values by column."""
        return {name: getattr(self, name) for name in type(self).model_fields}

    def values_before_change(self) -> dict[str, Any]:
        """Return the values by column from before the changes that are not written yet."""
        values = self.values()
        for name in inspect(self).committed_state:  # the changed ones
            replaced = get_history(self, name).deleted
            if replaced:
                values[name] = replaced[0]
        return values


class CheckpointRow(Row, table=True):
    """A checkpoint that replies were made with; one row for each fingerprint."""

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
    checksum: str | None = Field(default=None, sa_column=Column(String(16)))


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
    archived: bool = Field(default=False, sa_column=Column(Flag, nullable=False))
    forked_at: int | None = Field(default=None, sa_column=Column(BigInteger))
    checksum: str | None = Field(default=None, sa_column=Column(String(16)))


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
    checksum: str | None = Field(default=None, sa_column=Column(String(16)))


class GenerationRow(Row, table=True):
    """One attempt at a reply: its request, and its outcome once there is one."""

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
    # NULL in rows that are older than these columns.
    forced_ids: list[int] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    digest: str | None = Field(default=None, sa_column=Column(String(64)))
    checkpoint_path: str | None = Field(default=None, sa_column=Column(FaithfulText))
    checksum: str | None = Field(default=None, sa_column=Column(String(16)))


@event.listens_for(Row, "before_insert", propagate=True)
def _set_checksum(_mapper: object, _connection: object, row: Row) -> None:
    row.set_checksum()


@event.listens_for(Row, "before_update", propagate=True)
def _renew_checksum(_mapper: object, _connection: object, row: Row) -> None:
    # A row that was damaged before this change keeps a checksum that does not hold, so the damage is found.
    if row.checksum is None or row.checksum == checksum(row.values_before_change()):
        row.set_checksum()
