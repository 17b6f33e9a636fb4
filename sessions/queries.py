"""Read rows, paths and trees of messages, and turns.

Portable SQL only. Each function does its work in one query.
"""

from __future__ import annotations

from sqlalchemy import CTE, desc, func, or_
from sqlalchemy.orm import aliased
from sqlmodel import Session as Transaction
from sqlmodel import col, select

from sessions.digest import digest_of_generation
from sessions.errors import RecordNotFound
from sessions.fields import read
from sessions.records import Generation, Message, RecordedTurn, Session
from sessions.tables import CheckpointRow, GenerationRow, MessageRow, SessionRow
from sessions.validation import checked_int

_FIRST_WORDS = 80  # characters of the first user message shown in a list


def session_row(transaction: Transaction, session_id: int) -> SessionRow:
    """Return the session; raise RecordNotFound, or StoreDamaged for values that no query can use."""
    row = transaction.get(SessionRow, checked_int(session_id, "a session id"))
    if row is None:
        raise RecordNotFound("session", session_id)
    read(Session, row)
    return row


def session(transaction: Transaction, session_id: int) -> Session:
    """Return the session as a record; raise RecordNotFound."""
    return read(Session, session_row(transaction, session_id))


def message_row(transaction: Transaction, message_id: int) -> MessageRow:
    """Return the message; raise RecordNotFound."""
    row = transaction.get(MessageRow, checked_int(message_id, "a message id"))
    if row is None:
        raise RecordNotFound("message", message_id)
    return row


def path_of(transaction: Transaction, head_id: int | None) -> list[Message]:
    """Return the messages from the root to ``head_id``, following parents across sessions."""
    path = _path(head_id)
    rows = transaction.exec(
        select(MessageRow).join(path, col(MessageRow.id) == path.c.id).order_by(col(MessageRow.position))
    )
    return [read(Message, row) for row in rows]


def _path(head_id: int | None) -> CTE:
    id_, parent_id = col(MessageRow.id), col(MessageRow.parent_id)
    path = select(id_, parent_id).where(id_ == head_id).cte("path", recursive=True)
    # A union without repetition ends even where the parents of a damaged store form a cycle.
    return path.union(select(id_, parent_id).join(path, id_ == path.c.parent_id))


def tree_ids(session: SessionRow) -> CTE:
    """Return a selectable ``(id, parent_id)`` of all messages of the session's tree.

    They are its own messages, those that its head, its fork or one of its generations refers to, and the
    ancestors of all these, which belong to other sessions where it is a fork.
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


def head_digests(transaction: Transaction) -> dict[str, str]:
    """Return the digest of each session's head by the session's name, without archived sessions'."""
    query = select(SessionRow.name, MessageRow.digest).join(
        MessageRow, col(SessionRow.head_id) == col(MessageRow.id)
    )
    return dict(transaction.exec(query.where(col(SessionRow.archived).is_(False))).all())


def shortened(text: str) -> str:
    """Return the first words of ``text`` on one line."""
    line = " ".join(text.split())
    return line if len(line) <= _FIRST_WORDS else line[: _FIRST_WORDS - 1].rstrip() + "…"


def is_on_path(transaction: Transaction, message_id: int, head_id: int | None) -> bool:
    """Return whether the message is the head or one of its ancestors."""
    path = _path(head_id)
    return transaction.exec(select(path.c.id).where(path.c.id == message_id)).first() is not None


def recorded_turns(
    transaction: Transaction, session: SessionRow, *, every_branch: bool
) -> list[RecordedTurn]:
    """Return the turns of the path, or of the whole tree, whose reply has a generation, by the reply's id."""
    wanted = tree_ids(session) if every_branch else _path(session.head_id)
    return _turns(transaction, wanted)


def last_turn(transaction: Transaction, session: SessionRow) -> RecordedTurn | None:
    """Return the last turn of the path whose reply has a generation."""
    found = _turns(transaction, _path(session.head_id), last=True)
    return found[0] if found else None


def variants(transaction: Transaction, session: SessionRow, user: MessageRow) -> list[RecordedTurn]:
    """Return the turns of the tree that stand in the place of one: the same parent, any reply to each."""
    return _turns(transaction, tree_ids(session), parent_of_user=(user.parent_id,))


def next_attempt(transaction: Transaction, session: SessionRow, user_message_id: int) -> int:
    """Return the number of the next attempt at a reply, counting those that failed, from 0."""
    tree = tree_ids(session)
    in_tree = or_(
        col(GenerationRow.session_id) == session.id, col(GenerationRow.reply_id).in_(select(tree.c.id))
    )
    greatest = transaction.exec(
        select(func.max(GenerationRow.attempt)).where(
            col(GenerationRow.user_message_id) == user_message_id, in_tree
        )
    ).one()
    return 0 if greatest is None else greatest + 1  # pyright: ignore[reportUnnecessaryComparison]


def _turns(
    transaction: Transaction,
    wanted: CTE,
    *,
    parent_of_user: tuple[int | None] | None = None,
    last: bool = False,
) -> list[RecordedTurn]:
    user, reply = aliased(MessageRow), aliased(MessageRow)
    query = (
        select(user, reply, GenerationRow)
        .join(reply, col(GenerationRow.reply_id) == col(reply.id))
        .join(user, col(GenerationRow.user_message_id) == col(user.id))
        .join(wanted, wanted.c.id == col(reply.id))
        .order_by(desc(col(reply.position)) if last else col(reply.id))
    )
    if last:
        query = query.limit(1)
    if parent_of_user is not None:
        query = query.where(col(user.parent_id).is_not_distinct_from(parent_of_user[0]))
    return [
        RecordedTurn(
            user=read(Message, user_row),
            reply=read(Message, reply_row),
            generation=read(Generation, generation),
        )
        for user_row, reply_row, generation in transaction.exec(query)
    ]


def digest_of(transaction: Transaction, row: GenerationRow) -> str | None:
    """Return the digest that a generation should have; None while it has no reply."""
    if row.reply_id is None:
        return None
    return digest_of_generation(
        read(Generation, row),
        user=message_row(transaction, row.user_message_id).digest,
        reply=message_row(transaction, row.reply_id).digest,
        fingerprint=transaction.get_one(CheckpointRow, row.checkpoint_id).fingerprint,
    )


def pending_row(transaction: Transaction, session_id: int) -> GenerationRow | None:
    """Return the generation that the session waits for, if any; there is at most one."""
    return transaction.exec(
        select(GenerationRow).where(GenerationRow.session_id == session_id, GenerationRow.status == "pending")
    ).first()
