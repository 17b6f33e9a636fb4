"""Delete a session permanently; its forks keep the messages that they share with it.

Called inside a writing transaction only.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, or_
from sqlalchemy.orm import aliased
from sqlmodel import Session as Transaction
from sqlmodel import col, select

from sessions.queries import tree_ids
from sessions.tables import GenerationRow, MessageRow, SessionRow


def purge_session(transaction: Transaction, session: SessionRow) -> None:
    """Delete the session and its messages; messages that forks still use move to the oldest such fork.

    A fork of the session becomes a fork of the session that this one was forked from, if any.
    """
    for sharer in _sharers(transaction, session):
        _hand_over(transaction, session, sharer)
    session.head_id = None
    transaction.flush()
    for fork in transaction.exec(select(SessionRow).where(SessionRow.forked_from == session.id)):
        fork.forked_from = session.forked_from
    transaction.flush()
    transaction.exec(delete(GenerationRow).where(col(GenerationRow.session_id) == session.id))
    transaction.exec(delete(MessageRow).where(col(MessageRow.session_id) == session.id))
    transaction.delete(session)


def _sharers(transaction: Transaction, session: SessionRow) -> Sequence[SessionRow]:
    """Return the other sessions, locked, whose tree contains a message of this one, oldest first."""
    id_ = col(SessionRow.id)
    owned = select(MessageRow.id).where(MessageRow.session_id == session.id)
    child = aliased(MessageRow)
    using_one = or_(
        col(SessionRow.head_id).in_(owned),
        col(SessionRow.forked_at).in_(owned),
        id_.in_(select(child.session_id).where(col(child.parent_id).in_(owned))),
        id_.in_(select(GenerationRow.session_id).where(col(GenerationRow.user_message_id).in_(owned))),
    )
    query = select(SessionRow).where(id_ != session.id, using_one).order_by(id_)
    return transaction.exec(query.with_for_update()).all()


def _hand_over(transaction: Transaction, session: SessionRow, sharer: SessionRow) -> None:
    # Row by row, because the checksum of each changes with its session.
    needed = select(tree_ids(sharer).c.id)
    messages = transaction.exec(
        select(MessageRow).where(col(MessageRow.session_id) == session.id, col(MessageRow.id).in_(needed))
    )
    for message in messages:
        message.session_id = sharer.id
    transaction.flush()
    received = select(MessageRow.id).where(MessageRow.session_id == sharer.id)
    generations = transaction.exec(
        select(GenerationRow).where(
            col(GenerationRow.session_id) == session.id, col(GenerationRow.reply_id).in_(received)
        )
    )
    for generation in generations:
        generation.session_id = sharer.id
    transaction.flush()
