"""Reading: paths and trees of messages, and rows turned into records.

Portable SQL only. Each function does its work in one query.
"""

from __future__ import annotations

from typing import cast

from sqlalchemy import CTE, or_
from sqlalchemy.orm import aliased
from sqlmodel import Session as Transaction
from sqlmodel import col, select

from sessions.errors import RecordNotFound, StoreDamaged
from sessions.integrity import digest_of_generation
from sessions.records import (
    Checkpoint,
    Generation,
    GenerationStatus,
    Message,
    RecordedTurn,
    ReplyStatus,
    Role,
    Session,
)
from sessions.tables import CheckpointRow, GenerationRow, MessageRow, SessionRow
from sessions.validation import checked_int

_FIRST_WORDS = 80  # characters of the first user message that a list shows


def session_row(transaction: Transaction, session_id: int) -> SessionRow:
    """Return the session; raise RecordNotFound."""
    row = transaction.get(SessionRow, checked_int(session_id, "a session id"))
    if row is None:
        raise RecordNotFound("session", session_id)
    return row


def message_row(transaction: Transaction, message_id: int) -> MessageRow:
    """Return the message; raise RecordNotFound."""
    row = transaction.get(MessageRow, checked_int(message_id, "a message id"))
    if row is None:
        raise RecordNotFound("message", message_id)
    return row


def path_to(transaction: Transaction, head_id: int | None) -> list[Message]:
    """Return the messages from the root to ``head_id``, following parents across sessions."""
    path = _path(head_id)
    rows = transaction.exec(
        select(MessageRow).join(path, col(MessageRow.id) == path.c.id).order_by(col(MessageRow.position))
    )
    return [message_record(row) for row in rows]


def _path(head_id: int | None) -> CTE:
    id_, parent_id = col(MessageRow.id), col(MessageRow.parent_id)
    path = select(id_, parent_id).where(id_ == head_id).cte("path", recursive=True)
    # Without repetition: in a damaged store parents may go in a circle.
    return path.union(select(id_, parent_id).join(path, id_ == path.c.parent_id))


def tree_ids(session: SessionRow) -> CTE:
    """Return a selectable ``(id, parent_id)`` of all messages of the session's tree.

    They are its own, those that its head, its fork or one of its generations stands at, and the ancestors of
    all these, which lie in other sessions where it is a fork.
    """
    id_, parent_id = col(MessageRow.id), col(MessageRow.parent_id)
    asked = select(GenerationRow.user_message_id).where(col(GenerationRow.session_id) == session.id)
    starts = or_(
        col(MessageRow.session_id) == session.id,
        id_.in_([each for each in (session.head_id, session.forked_at) if each is not None]),
        id_.in_(asked),
    )
    tree = select(id_, parent_id).where(starts).cte("tree", recursive=True)
    return tree.union(select(id_, parent_id).join(tree, id_ == tree.c.parent_id))


def shortened(text: str) -> str:
    """Return the first words of ``text`` on one line."""
    line = " ".join(text.split())
    return line if len(line) <= _FIRST_WORDS else line[: _FIRST_WORDS - 1].rstrip() + "…"


def is_on_path(transaction: Transaction, message_id: int, head_id: int | None) -> bool:
    """Tell whether the message is the head or one of its ancestors."""
    path = _path(head_id)
    return transaction.exec(select(path.c.id).where(path.c.id == message_id)).first() is not None


def recorded_turns(
    transaction: Transaction, session: SessionRow, *, every_branch: bool
) -> list[RecordedTurn]:
    """Return the turns of the path, or of the whole tree, whose reply has a generation, by the reply's id."""
    wanted = tree_ids(session) if every_branch else _path(session.head_id)
    user, reply = aliased(MessageRow), aliased(MessageRow)
    rows = transaction.exec(
        select(user, reply, GenerationRow)
        .join(reply, col(GenerationRow.reply_id) == col(reply.id))
        .join(user, col(GenerationRow.user_message_id) == col(user.id))
        .join(wanted, wanted.c.id == col(reply.id))
        .order_by(col(reply.id))
    )
    return [
        RecordedTurn(
            user=message_record(user_row),
            reply=message_record(reply_row),
            generation=generation_record(generation),
        )
        for user_row, reply_row, generation in rows
    ]


def digest_of(transaction: Transaction, row: GenerationRow) -> str | None:
    """Return the digest that a generation should have; None while it has no reply."""
    if row.reply_id is None:
        return None
    return digest_of_generation(
        generation_record(row),
        user=transaction.get_one(MessageRow, row.user_message_id).digest,
        reply=transaction.get_one(MessageRow, row.reply_id).digest,
        fingerprint=transaction.get_one(CheckpointRow, row.checkpoint_id).fingerprint,
    )


def pending_row(transaction: Transaction, session_id: int) -> GenerationRow | None:
    """Return the generation that the session waits for, if any; there is at most one."""
    return transaction.exec(
        select(GenerationRow).where(GenerationRow.session_id == session_id, GenerationRow.status == "pending")
    ).first()


def session_record(row: SessionRow) -> Session:
    """Freeze a session."""
    return Session(
        id=row.id,
        name=row.name,
        seed=row.seed,
        settings=row.settings,
        head_id=row.head_id,
        forked_from=row.forked_from,
        forked_at=row.forked_at,
        created=row.created,
        last_used=row.last_used,
        archived=row.archived,
    )


def checkpoint_record(row: CheckpointRow) -> Checkpoint:
    """Freeze a checkpoint."""
    return Checkpoint(
        id=row.id,
        fingerprint=row.fingerprint,
        parts=row.parts,
        config=row.config,
        step=row.step,
        path=row.path,
        created=row.created,
    )


def message_record(row: MessageRow) -> Message:
    """Freeze a message. Roles and statuses are as the table's checks allow; StoreDamaged for half a row."""
    if None in cast("tuple[object, ...]", (row.role, row.content, row.status, row.digest)):
        raise StoreDamaged(f"message {row.id} is damaged: restore a backup, or recover what can be read")
    return Message(
        id=row.id,
        session_id=row.session_id,
        parent_id=row.parent_id,
        position=row.position,
        role=cast("Role", row.role),
        content=row.content,
        token_ids=None if row.token_ids is None else tuple(row.token_ids),
        status=cast("ReplyStatus", row.status),
        digest=row.digest,
        created=row.created,
    )


def generation_record(row: GenerationRow) -> Generation:
    """Freeze a generation as it is now."""
    return Generation(
        id=row.id,
        session_id=row.session_id,
        user_message_id=row.user_message_id,
        reply_id=row.reply_id,
        checkpoint_id=row.checkpoint_id,
        seed=row.seed,
        attempt=row.attempt,
        sampling=row.sampling,
        max_new_tokens=row.max_new_tokens,
        prompt_hash=row.prompt_hash,
        trimmed_turns=row.trimmed_turns,
        environment=row.environment,
        forced_ids=tuple(row.forced_ids or ()),
        status=cast("GenerationStatus", row.status),
        finish_reason=row.finish_reason,
        receipt=row.receipt,
        timings=row.timings,
        error=row.error,
        digest=row.digest,
        created=row.created,
        finished=row.finished,
    )
