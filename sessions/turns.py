"""Store turns: a user message, the request for a reply to it, and the outcome.

The message and its pending generation are durable before anything is generated, the reply before the caller
is told that it is stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

from sqlmodel import Session as Transaction
from sqlmodel import col, func, select

from sessions import mutations, queries
from sessions.errors import InvalidValue, RecordNotFound
from sessions.fields import checked, read
from sessions.records import Checkpoint, Generation, Message, NewGeneration, ReplyStatus, Role, Session, Turn
from sessions.tables import CheckpointRow, GenerationRow, MessageRow, SessionRow
from sessions.validation import (
    checked_int,
    checked_json,
    checked_label,
    checked_text,
    checked_token_ids,
    storable_text,
)

_RECENT = 10_000  # generations in which pending ones are looked for


def remember_checkpoint(
    transaction: Transaction,
    *,
    fingerprint: str,
    parts: Mapping[str, str],
    config: Mapping[str, object],
    step: int | None,
    path: str,
) -> int:
    """Return the id of the checkpoint with this fingerprint, its row brought up to date."""
    row = CheckpointRow(
        fingerprint=checked_label(fingerprint, "the fingerprint"),
        parts=checked_json(dict(parts), "the fingerprint's parts"),
        config=checked_json(config, "the checkpoint's config"),
        step=None if step is None else checked_int(step, "the checkpoint's step"),
        path=storable_text(path),
        created=mutations.now(),
    )
    known = mutations.known_checkpoint(transaction, row)
    if known is not row:
        # The caller has the weights; the row may have come from somebody's file.
        known.parts, known.config, known.step, known.path = row.parts, row.config, row.step, row.path
    return known.id


def checkpoint(transaction: Transaction, checkpoint_id: int) -> Checkpoint:
    """Return a checkpoint that was remembered."""
    row = transaction.get(CheckpointRow, checked_int(checkpoint_id, "a checkpoint id"))
    if row is None:
        raise RecordNotFound("checkpoint", checkpoint_id)
    return read(Checkpoint, row)


def begin_turn(
    transaction: Transaction,
    session_id: int,
    *,
    content: str,
    expected_head: int | None,
    generation: NewGeneration,
) -> Turn:
    """Store a user message and the generation of its reply, both or neither."""
    checked_text(content, "the message")
    asked = checked(generation)
    row = mutations.locked_session(transaction, session_id)
    mutations.require_head(transaction, row, expected_head)
    user = mutations.append(transaction, row, parent_id=row.head_id, role="user", content=content)
    return _turn(row, user, mutations.request_reply(transaction, row, user, asked))


def begin_edit(
    transaction: Transaction,
    session_id: int,
    *,
    user_message_id: int,
    content: str,
    expected_head: int | None,
    generation: NewGeneration,
) -> Turn:
    """Store a user message next to one of the path, and the generation of its reply, both or neither."""
    checked_int(user_message_id, "a message id")
    checked_text(content, "the message")
    asked = checked(generation)
    row = mutations.locked_session(transaction, session_id)
    mutations.require_head(transaction, row, expected_head)
    replaced = _user_on_path(transaction, row, user_message_id)
    user = mutations.append(transaction, row, parent_id=replaced.parent_id, role="user", content=content)
    return _turn(row, user, mutations.request_reply(transaction, row, user, asked))


def begin_session(
    transaction: Transaction,
    name: str,
    *,
    seed: int,
    settings: Mapping[str, object],
    messages: Sequence[tuple[Role, str]],
    generation: NewGeneration,
    archived: bool,
) -> Turn:
    """Create a session with a whole conversation and the pending reply to its last message, or nothing."""
    row = mutations.new_session(name, seed=seed, settings=settings)
    row.archived = archived
    asked = checked(generation)
    for role, content in messages:
        if role not in get_args(Role):
            raise InvalidValue(f"a message's role is {role!r}: expected one of {get_args(Role)}")
        checked_text(content, "a message")
    if not messages or messages[-1][0] != "user":
        raise InvalidValue("the last message is not a user's: expected one that a reply can answer")
    mutations.add_session(transaction, row)
    for role, content in messages:
        mutations.append(transaction, row, parent_id=row.head_id, role=role, content=content)
    assert row.head_id is not None  # noqa: S101 - there is at least one message
    user = queries.message_row(transaction, row.head_id)
    return _turn(row, user, mutations.request_reply(transaction, row, user, asked))


def begin_retry(
    transaction: Transaction,
    session_id: int,
    *,
    user_message_id: int,
    generation: NewGeneration,
    expected_head: int | None,
) -> Turn:
    """Store another attempt at the reply to a user message of the path."""
    checked_int(user_message_id, "a message id")
    asked = checked(generation)
    row = mutations.locked_session(transaction, session_id)
    if expected_head not in {None, row.head_id}:
        raise mutations.head_moved(transaction, row, expected_head)
    user = _user_on_path(transaction, row, user_message_id)
    pending = queries.pending_row(transaction, session_id)
    if pending is not None:
        if pending.user_message_id != user_message_id:
            raise mutations.reply_pending(row, pending)
        mutations.finish(pending, "failed", error="given up for another attempt")
    row.last_used = mutations.now()
    return _turn(row, user, mutations.request_reply(transaction, row, user, asked))


def finish_reply(
    transaction: Transaction,
    generation_id: int,
    *,
    content: str,
    token_ids: Sequence[int],
    status: ReplyStatus,
    finish_reason: str,
    receipt: Mapping[str, object],
    timings: Mapping[str, object],
) -> Message:
    """Store the reply with its outcome and move the head to it."""
    if status not in get_args(ReplyStatus):
        raise InvalidValue(f"the reply's status is {status!r}: expected one of {get_args(ReplyStatus)}")
    checked_text(content, "the reply")
    checked_label(finish_reason, "the finish reason")
    ids = checked_token_ids(token_ids)
    plain_receipt = checked_json(receipt, "the receipt")
    plain_timings = checked_json(timings, "the timings")
    session, row = mutations.locked_generation(transaction, generation_id)
    stored = _reply_of(transaction, row)
    outcome = (status, finish_reason, content, ids)
    if stored is not None and (row.status, row.finish_reason, stored.content, stored.token_ids) == outcome:
        return stored
    mutations.require_pending(row)
    reply = mutations.append(
        transaction,
        session,
        parent_id=row.user_message_id,
        role="assistant",
        content=content,
        token_ids=ids,
        status=status,
    )
    mutations.finish(row, status)
    row.reply_id = reply.id
    row.finish_reason = finish_reason
    row.receipt = plain_receipt
    row.timings = plain_timings
    with transaction.no_autoflush:  # all that changed in the row is written once
        row.digest = queries.digest_of(transaction, row)
    return read(Message, reply)


def fail_generation(transaction: Transaction, generation_id: int, *, error: str) -> None:
    """Record that a generation ended without a reply, and why."""
    # The text of an error must never prevent it from being recorded.
    storable = storable_text(error)
    session, row = mutations.locked_generation(transaction, generation_id)
    if (row.status, row.error) != ("failed", storable):
        mutations.finish(row, "failed", error=storable)
        session.last_used = mutations.now()


def pending(transaction: Transaction, session_id: int) -> Turn | None:
    """Return the turn whose reply is being generated, or was interrupted."""
    session = queries.session_row(transaction, session_id)
    row = queries.pending_row(transaction, session_id)
    if row is None:
        return None
    return _turn(session, queries.message_row(transaction, row.user_message_id), row)


def recent_pending(transaction: Transaction, limit: int) -> list[Turn]:
    """Return turns of any session whose reply is being generated, or was interrupted, oldest first.

    Only the latest _RECENT generations are looked at: there is no index over all that are pending.
    """
    latest = select(func.coalesce(func.max(GenerationRow.id), 0)).scalar_subquery()
    rows = transaction.exec(
        select(GenerationRow, SessionRow, MessageRow)
        .join(SessionRow, col(GenerationRow.session_id) == col(SessionRow.id))
        .join(MessageRow, col(GenerationRow.user_message_id) == col(MessageRow.id))
        .where(GenerationRow.status == "pending", col(GenerationRow.id) > latest - _RECENT)
        .order_by(col(GenerationRow.id))
        .limit(limit)
    )
    return [_turn(session, user, generation) for generation, session, user in rows]


def turn(transaction: Transaction, generation_id: int) -> Turn:
    """Return the session, the user message and the generation of a reply, pending or not."""
    row = transaction.get(GenerationRow, checked_int(generation_id, "a generation id"))
    if row is None:
        raise RecordNotFound("generation", generation_id)
    session = queries.session_row(transaction, row.session_id)
    return _turn(session, queries.message_row(transaction, row.user_message_id), row)


def generations(transaction: Transaction, session_id: int) -> list[Generation]:
    """Return every attempt at a reply in this session, oldest first."""
    queries.session_row(transaction, session_id)
    rows = transaction.exec(
        select(GenerationRow).where(GenerationRow.session_id == session_id).order_by(col(GenerationRow.id))
    )
    return [read(Generation, row) for row in rows]


def _user_on_path(transaction: Transaction, session: SessionRow, message_id: int) -> MessageRow:
    """Return a user message of the session's path. Raises RecordNotFound, HeadMoved."""
    user = transaction.get(MessageRow, message_id)
    if user is None or user.role != "user":
        raise RecordNotFound("user message", message_id)
    if not queries.is_on_path(transaction, message_id, session.head_id):
        raise mutations.head_moved(transaction, session, message_id)
    return user


def _reply_of(transaction: Transaction, row: GenerationRow) -> Message | None:
    return None if row.reply_id is None else read(Message, queries.message_row(transaction, row.reply_id))


def _turn(session: SessionRow, user: MessageRow, generation: GenerationRow) -> Turn:
    return Turn(
        session=read(Session, session), user=read(Message, user), generation=read(Generation, generation)
    )
