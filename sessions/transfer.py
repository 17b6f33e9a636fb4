"""Export sessions as values, import them from values, and verify them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import insert, or_
from sqlmodel import Session as Transaction
from sqlmodel import col, select

from sessions import mutations, queries
from sessions.errors import StoreDamaged
from sessions.fields import checksum, column_values, read
from sessions.integrity import checksum_fault, verified
from sessions.records import (
    Checkpoint,
    Generation,
    Message,
    Session,
    SessionArchive,
    Verification,
)
from sessions.tables import CheckpointRow, GenerationRow, MessageRow, SessionRow


class StoredSession:
    """The rows of one session, read in one short transaction; they are checked after it has ended."""

    def __init__(self, transaction: Transaction, session_id: int) -> None:
        self._session = queries.session_row(transaction, session_id)
        tree = queries.tree_ids(self._session)
        self._messages = transaction.exec(
            select(MessageRow).join(tree, col(MessageRow.id) == tree.c.id).order_by(col(MessageRow.id))
        ).all()
        # The session's own generations, and those of replies that it shares.
        belongs = or_(
            col(GenerationRow.session_id) == session_id, col(GenerationRow.reply_id).in_(select(tree.c.id))
        )
        self._generations = transaction.exec(
            select(GenerationRow).where(belongs).order_by(col(GenerationRow.id))
        ).all()
        # A damaged row can name anything.
        known = {row.checkpoint_id for row in self._generations if isinstance(row.checkpoint_id, int)}  # pyright: ignore[reportUnnecessaryIsInstance]
        self._checkpoints = [
            row for each in sorted(known) if (row := transaction.get(CheckpointRow, each)) is not None
        ]

    def archive(self) -> SessionArchive:
        """Return the session as a value. Raises StoreDamaged for damaged values or references."""
        archive = self._archive()
        seen: set[int | None] = {None}
        for message in archive.messages:
            # Ids grow, so a parent that comes later is part of a cycle.
            if message.parent_id not in seen:
                raise _damaged(f"message {message.id}", f"its parent, message {message.parent_id},")
            seen.add(message.id)
        for what, message_id in (("head", archive.session.head_id), ("fork", archive.session.forked_at)):
            if message_id not in seen:
                raise _damaged(f"session {archive.session.id}", f"its {what}, message {message_id},")
        known = {checkpoint.id for checkpoint in archive.checkpoints}
        for generation in archive.generations:
            if generation.checkpoint_id not in known:
                raise _damaged(f"generation {generation.id}", "its checkpoint")
            if not {generation.user_message_id, generation.reply_id} <= seen:
                raise _damaged(f"generation {generation.id}", "its question or its reply")
        return archive

    def _archive(self) -> SessionArchive:
        session = read(Session, self._session)
        messages = tuple(read(Message, row) for row in self._messages)
        generations = tuple(read(Generation, row) for row in self._generations)
        checkpoints = tuple(read(Checkpoint, row) for row in self._checkpoints)
        return SessionArchive(
            session=session,
            messages=messages,
            generations=generations,
            checkpoints=checkpoints,
            digest=verified(session.head_id, messages, generations, checkpoints).digest,
        )

    def verification(self) -> Verification:
        """Recompute the digests and checksums of the whole tree. Raises StoreDamaged for damaged values."""
        archive = self._archive()
        found = verified(archive.session.head_id, archive.messages, archive.generations, archive.checkpoints)
        # A row whose digest is wrong has a wrong checksum too; it is reported once.
        known = {(fault.message_id, fault.generation_id) for fault in found.faults}
        rows = [self._session, *self._messages, *self._generations, *self._checkpoints]
        changed = [checksum_fault(row) for row in rows if not row.has_its_checksum()]
        own = (None, None)
        faults = tuple(
            fault
            for fault in changed
            if (place := (fault.message_id, fault.generation_id)) == own or place not in known
        )
        return Verification(
            digest=found.digest,
            faults=found.faults + faults,
            messages=found.messages,
            generations=found.generations,
        )


def _damaged(where: str, lacking: str) -> StoreDamaged:
    return StoreDamaged(
        f"{where} in the store is damaged ({lacking} is missing from the session): restore a backup, or "
        "recover what can be read"
    )


def import_archives(
    transaction: Transaction, archives: Sequence[SessionArchive], names: Sequence[str]
) -> list[Session]:
    """Store checked archives as new sessions under ``names``."""
    now = mutations.now()
    rows = [_new_session(archive.session, name, now) for archive, name in zip(archives, names, strict=True)]
    return [_add_session(transaction, row, archive) for row, archive in zip(rows, archives, strict=True)]


def _new_session(origin: Session, name: str, now: datetime) -> SessionRow:
    row = mutations.new_session(name, seed=origin.seed, settings=origin.settings)
    row.created = origin.created
    # A file from the future must not stay the session used last.
    row.last_used = min(origin.last_used, now)
    row.archived = origin.archived
    return row


def _add_session(transaction: Transaction, row: SessionRow, archive: SessionArchive) -> Session:
    mutations.add_session(transaction, row)
    messages = _add_messages(transaction, row, archive)
    _add_generations(transaction, row, archive, messages)
    head_id, forked_at = archive.session.head_id, archive.session.forked_at
    row.head_id = None if head_id is None else messages[head_id]
    row.forked_at = None if forked_at is None else messages[forked_at]
    return mutations.after(transaction, row)


def _add_messages(transaction: Transaction, session: SessionRow, archive: SessionArchive) -> dict[int, int]:
    """Write the messages; return the id that each has now by the id that it had."""
    ids: dict[int, int] = {}
    # Each needs its parent's new id; a plain statement for each costs a third of a flush.
    connection = transaction.connection()
    for message in archive.messages:
        values = column_values(
            message,
            session_id=session.id,
            parent_id=None if message.parent_id is None else ids[message.parent_id],
        )
        key = connection.execute(
            insert(MessageRow), values | {"checksum": checksum(values)}
        ).inserted_primary_key
        assert key is not None  # noqa: S101 - an insert of one row has one
        ids[message.id] = key[0]
    return ids


def _add_generations(
    transaction: Transaction, session: SessionRow, archive: SessionArchive, messages: dict[int, int]
) -> None:
    checkpoints = {
        checkpoint.id: mutations.known_checkpoint(transaction, CheckpointRow(**column_values(checkpoint))).id
        for checkpoint in archive.checkpoints
    }
    paths = {checkpoint.id: checkpoint.path for checkpoint in archive.checkpoints}
    for generation in archive.generations:
        transaction.add(
            GenerationRow(
                **column_values(
                    generation,
                    session_id=session.id,
                    user_message_id=messages[generation.user_message_id],
                    reply_id=None if generation.reply_id is None else messages[generation.reply_id],
                    checkpoint_id=checkpoints[generation.checkpoint_id],
                    checkpoint_path=generation.checkpoint_path or paths[generation.checkpoint_id],
                )
            )
        )
