"""Deleting a session for ever, without taking from its forks what they share with it.

Called inside a writing transaction only.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, or_, update
from sqlalchemy.orm import aliased
from sqlmodel import Session as Transaction
from sqlmodel import col, select

from sessions.queries import tree_ids
from sessions.tables import GenerationRow, MessageRow, SessionRow


def purge(transaction: Transaction, session: SessionRow) -> None:
    """Delete the session and its messages; what a fork's tree needs becomes the oldest fork's own.

    A fork of the session counts from then on as one of the session that this one was forked from, if any.
    """
    for sharer in _sharers(transaction, session):
        _hand_over(transaction, session, sharer)
    session.head_id = None
    transaction.flush()
    transaction.exec(
        update(SessionRow)
        .where(col(SessionRow.forked_from) == session.id)
        .values(forked_from=session.forked_from)
    )
    transaction.exec(delete(GenerationRow).where(col(GenerationRow.session_id) == session.id))
    transaction.exec(delete(MessageRow).where(col(MessageRow.session_id) == session.id))
    transaction.delete(session)


def _sharers(transaction: Transaction, session: SessionRow) -> Sequence[SessionRow]:
    """Return the other sessions, locked, that stand on a message of this one, oldest first."""
    id_ = col(SessionRow.id)
    owned = select(MessageRow.id).where(MessageRow.session_id == session.id)
    child = aliased(MessageRow)
    standing_on = or_(
        col(SessionRow.head_id).in_(owned),
        col(SessionRow.forked_at).in_(owned),
        id_.in_(select(child.session_id).where(col(child.parent_id).in_(owned))),
        id_.in_(select(GenerationRow.session_id).where(col(GenerationRow.user_message_id).in_(owned))),
    )
    query = select(SessionRow).where(id_ != session.id, standing_on).order_by(id_)
    return transaction.exec(query.with_for_update()).all()


def _hand_over(transaction: Transaction, session: SessionRow, sharer: SessionRow) -> None:
    needed = select(tree_ids(sharer).c.id)
    transaction.exec(
        update(MessageRow)
        .where(col(MessageRow.session_id) == session.id, col(MessageRow.id).in_(needed))
        .values(session_id=sharer.id)
        .execution_options(synchronize_session=False)
    )
    received = select(MessageRow.id).where(MessageRow.session_id == sharer.id)
    transaction.exec(
        update(GenerationRow)
        .where(col(GenerationRow.session_id) == session.id, col(GenerationRow.reply_id).in_(received))
        .values(session_id=sharer.id)
        .execution_options(synchronize_session=False)
    )
