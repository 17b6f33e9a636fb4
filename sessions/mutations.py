"""The smallest changes that a transaction is made of: lock a session, check its head, append, conclude.

Called inside a writing transaction only.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from sqlalchemy.exc import IntegrityError
from sqlmodel import Session as Transaction
from sqlmodel import col, select

from sessions.digest import message_digest
from sessions.errors import GenerationFinished, HeadMoved, RecordNotFound, ReplyPending, SessionExists
from sessions.queries import pending_row, shortened
from sessions.records import GenerationStatus, NewGeneration, ReplyStatus, Role
from sessions.tables import CheckpointRow, GenerationRow, MessageRow, SessionRow
from sessions.validation import checked_int, checked_json, checked_name


def now() -> datetime:
    """Return the present moment, in UTC."""
    return datetime.now(UTC)


def new_session(name: str, *, seed: int, settings: Mapping[str, object]) -> SessionRow:
    """Return a session that is not added yet. Raises InvalidName, InvalidValue."""
    moment = now()
    return SessionRow(
        name=checked_name(name),
        seed=checked_int(seed, "the seed"),
        settings=checked_json(settings, "the settings"),
        created=moment,
        last_used=moment,
    )


def add_session(transaction: Transaction, row: SessionRow) -> None:
    """Write a new session. Raises SessionExists."""
    transaction.add(row)
    try:
        transaction.flush()
    except IntegrityError as error:
        raise SessionExists(row.name) from error


def start_tree(transaction: Transaction, session: SessionRow, system: str | None) -> None:
    """Begin a new tree, with ``system`` as its root if given."""
    session.head_id = None
    if system is not None:
        append(transaction, session, parent_id=None, role="system", content=system)


def remember(transaction: Transaction, checkpoint: CheckpointRow) -> CheckpointRow:
    """Write a checkpoint, or take its path over into the row that has its fingerprint; return that row."""
    same = select(CheckpointRow).where(CheckpointRow.fingerprint == checkpoint.fingerprint)
    known = transaction.exec(same).one_or_none()
    if known is None:
        try:
            with transaction.begin_nested():
                transaction.add(checkpoint)
        except IntegrityError:
            # Another program was faster, on a database where writers do not exclude each other.
            known = transaction.exec(same).one()
        else:
            return checkpoint
    known.path = checkpoint.path
    return known


def locked_session(transaction: Transaction, session_id: int) -> SessionRow:
    """Return the session, locked against other programs where the write lock does not do so already.

    The caller is about to change it, so its last use is now. Raises RecordNotFound.
    """
    checked_int(session_id, "a session id")
    row = transaction.exec(
        select(SessionRow).where(col(SessionRow.id) == session_id).with_for_update()
    ).one_or_none()
    if row is None:
        raise RecordNotFound("session", session_id)
    row.last_used = now()
    return row


def require_head(transaction: Transaction, session: SessionRow, expected_head: int | None) -> None:
    """Raise HeadMoved if the session has gone on, ReplyPending if it waits for a reply."""
    if session.head_id != expected_head:
        raise head_moved(transaction, session, expected_head)
    pending = pending_row(transaction, session.id)
    if pending is not None:
        raise reply_pending(session, pending)


def head_moved(transaction: Transaction, session: SessionRow, expected: int | None) -> HeadMoved:
    """Return the error, with what the new head is."""
    head = None if session.head_id is None else transaction.get_one(MessageRow, session.head_id)
    what = (
        "it was reset"
        if head is None
        else f"{head.role}, {head.created:%F %T} UTC: {shortened(head.content)!r}"
    )
    return HeadMoved(session.name, expected=expected, found=session.head_id, what=what)


def reply_pending(session: SessionRow, pending: GenerationRow) -> ReplyPending:
    """Return the error, with since when."""
    return ReplyPending(session.name, generation_id=pending.id, since=f"{pending.created:%F %T} UTC")


def append(
    transaction: Transaction,
    session: SessionRow,
    *,
    parent_id: int | None,
    role: Role,
    content: str,
    token_ids: list[int] | None = None,
    status: ReplyStatus = "complete",
) -> MessageRow:
    """Write a message below ``parent_id`` (a root for None) and make it the session's head."""
    parent = None if parent_id is None else transaction.get_one(MessageRow, parent_id)
    row = MessageRow(
        session_id=session.id,
        parent_id=parent_id,
        position=0 if parent is None else parent.position + 1,
        role=role,
        content=content,
        token_ids=token_ids,
        status=status,
        digest=message_digest(
            parent=None if parent is None else parent.digest,
            role=role,
            content=content,
            status=status,
            token_ids=token_ids,
        ),
        created=now(),
    )
    transaction.add(row)
    transaction.flush()
    session.head_id = row.id
    return row


def ask_for_reply(
    transaction: Transaction, session: SessionRow, user: MessageRow, asked: NewGeneration
) -> GenerationRow:
    """Write the pending generation of a reply to ``user``. Raises RecordNotFound for its checkpoint."""
    if transaction.get(CheckpointRow, asked.checkpoint_id) is None:
        raise RecordNotFound("checkpoint", asked.checkpoint_id)
    row = GenerationRow(
        session_id=session.id,
        user_message_id=user.id,
        checkpoint_id=asked.checkpoint_id,
        seed=asked.seed,
        attempt=asked.attempt,
        sampling=dict(asked.sampling),
        max_new_tokens=asked.max_new_tokens,
        prompt_hash=asked.prompt_hash,
        trimmed_turns=asked.trimmed_turns,
        environment=dict(asked.environment),
        forced_ids=list(asked.forced_ids),
        status="pending",
        created=now(),
    )
    transaction.add(row)
    transaction.flush()
    return row


def locked_generation(transaction: Transaction, generation_id: int) -> tuple[SessionRow, GenerationRow]:
    """Return a generation that is still pending, and its session, locked.

    Raises RecordNotFound, or GenerationFinished if it has an outcome.
    """
    checked_int(generation_id, "a generation id")
    session_id = transaction.exec(
        select(GenerationRow.session_id).where(col(GenerationRow.id) == generation_id)
    ).one_or_none()
    if session_id is None:
        raise RecordNotFound("generation", generation_id)
    # Read after the lock: only then is its status certain.
    session = locked_session(transaction, session_id)
    row = transaction.get_one(GenerationRow, generation_id)
    if row.status != "pending":
        raise GenerationFinished(generation_id, row.status)
    return session, row


def conclude(row: GenerationRow, status: GenerationStatus, *, error: str | None = None) -> None:
    """Give a pending generation its outcome."""
    row.status = status
    row.error = error
    row.finished = now()
