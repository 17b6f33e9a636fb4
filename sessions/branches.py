"""Move through a session's tree: new roots, other branches, forks. Messages are added, never changed."""

from __future__ import annotations

from sqlmodel import Session as Transaction
from sqlmodel import select

from sessions import mutations, queries
from sessions.errors import RecordNotFound
from sessions.fields import read
from sessions.records import Session
from sessions.tables import MessageRow, SessionRow
from sessions.validation import checked_int, checked_text


def set_system(
    transaction: Transaction, session_id: int, system: str, *, expected_head: int | None
) -> Session:
    """Append a system message; the last one on a path counts."""
    checked_text(system, "the system prompt")
    row = mutations.locked_session(transaction, session_id)
    mutations.require_head(transaction, row, expected_head)
    mutations.append(transaction, row, parent_id=row.head_id, role="system", content=system)
    return mutations.after(transaction, row)


def reset(
    transaction: Transaction, session_id: int, *, system: str | None, expected_head: int | None
) -> Session:
    """Start a new tree, with ``system`` as its root if given; the old one stays stored."""
    if system is not None:
        checked_text(system, "the system prompt")
    row = mutations.locked_session(transaction, session_id)
    mutations.require_head(transaction, row, expected_head)
    mutations.start_tree(transaction, row, system)
    return mutations.after(transaction, row)


def move_head(
    transaction: Transaction, session_id: int, *, to: int | None, expected_head: int | None
) -> Session:
    """Make another message of the session's tree its head, or none (an empty path)."""
    row = mutations.locked_session(transaction, session_id)
    mutations.require_head(transaction, row, expected_head)
    mutations.move_head(row, None if to is None else _in_tree(transaction, row, to).id)
    return mutations.after(transaction, row)


def fork(
    transaction: Transaction, session_id: int, *, name: str, at: int | None, seed: int | None
) -> Session:
    """Create a session that shares this one's messages up to ``at`` (None: its head)."""
    new_seed = None if seed is None else checked_int(seed, "the seed")
    origin = mutations.locked_session(transaction, session_id)
    part_at = origin.head_id if at is None else _in_tree(transaction, origin, at).id
    row = mutations.new_session(
        name,
        seed=origin.seed if new_seed is None else new_seed,
        settings=read(Session, origin).settings,
    )
    row.head_id = row.forked_at = part_at
    row.forked_from = origin.id
    mutations.add_session(transaction, row)
    return mutations.after(transaction, row)


def _in_tree(transaction: Transaction, session: SessionRow, message_id: int) -> MessageRow:
    row = queries.message_row(transaction, message_id)
    if row.session_id != session.id:
        tree = queries.tree_ids(session)
        if transaction.exec(select(tree.c.id).where(tree.c.id == message_id)).first() is None:
            raise RecordNotFound(f"message of session {session.name!r}", message_id)
    return row
