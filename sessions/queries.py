"""Reading: the path to a head, the list of sessions, and rows turned into records.

Portable SQL only. Each function does its work in one query. Knows nothing about locks or writing.
"""

from __future__ import annotations

from typing import cast

from sqlalchemy import desc, func
from sqlmodel import Session as Transaction
from sqlmodel import col, select

from sessions.columns import FaithfulText
from sessions.records import (
    Generation,
    GenerationStatus,
    Message,
    ReplyStatus,
    Role,
    Session,
    SessionSummary,
)
from sessions.tables import GenerationRow, MessageRow, SessionRow

_FIRST_WORDS = 80  # characters of the first user message that a list shows


def path_to(transaction: Transaction, head_id: int | None) -> list[Message]:
    """Return the messages from the root to ``head_id``, following parents across sessions."""
    if head_id is None:
        return []
    path = (
        select(col(MessageRow.id), col(MessageRow.parent_id))
        .where(col(MessageRow.id) == head_id)
        .cte("path", recursive=True)
    )
    path = path.union_all(
        select(col(MessageRow.id), col(MessageRow.parent_id)).join(
            path, col(MessageRow.id) == path.c.parent_id
        )
    )
    rows = transaction.exec(
        select(MessageRow).join(path, col(MessageRow.id) == path.c.id).order_by(col(MessageRow.position))
    )
    return [message_record(row) for row in rows]


def summaries(transaction: Transaction, *, archived: bool) -> list[SessionSummary]:
    """Return one line a session, last used first."""
    of_session = col(MessageRow.session_id) == col(SessionRow.id)
    of_users = of_session & (col(MessageRow.role) == "user")
    messages = select(func.count()).select_from(MessageRow).where(of_session)
    turns = select(func.count()).select_from(MessageRow).where(of_users)
    start = func.substr(MessageRow.content, 1, 2 * _FIRST_WORDS, type_=FaithfulText)
    first_words = select(start).where(of_users).order_by(col(MessageRow.id)).limit(1)
    query = select(
        SessionRow,
        messages.correlate(SessionRow).scalar_subquery(),
        turns.correlate(SessionRow).scalar_subquery(),
        first_words.correlate(SessionRow).scalar_subquery(),
    ).order_by(desc(col(SessionRow.last_used)), desc(col(SessionRow.id)))
    if not archived:
        query = query.where(~col(SessionRow.archived))
    return [
        SessionSummary(
            id=row.id,
            name=row.name,
            created=row.created,
            last_used=row.last_used,
            archived=row.archived,
            messages=message_count,
            turns=turn_count,
            first_words=shortened(words or ""),
        )
        for row, message_count, turn_count, words in transaction.exec(query)
    ]


def shortened(text: str) -> str:
    """Return the first words of ``text`` on one line."""
    line = " ".join(text.split())
    return line if len(line) <= _FIRST_WORDS else line[: _FIRST_WORDS - 1].rstrip() + "…"


def latest_names(transaction: Transaction, limit: int) -> list[str]:
    """Return up to ``limit`` names of sessions, last used first."""
    return list(
        transaction.exec(select(SessionRow.name).order_by(desc(col(SessionRow.last_used))).limit(limit))
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
        created=row.created,
        last_used=row.last_used,
        archived=row.archived,
    )


def message_record(row: MessageRow) -> Message:
    """Freeze a message. Roles and statuses are as the table's checks allow."""
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
        status=cast("GenerationStatus", row.status),
        finish_reason=row.finish_reason,
        receipt=row.receipt,
        timings=row.timings,
        error=row.error,
        created=row.created,
        finished=row.finished,
    )
