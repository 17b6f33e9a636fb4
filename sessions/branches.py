"""Moving through a session's tree: new roots, other branches, forks. Messages are added, never changed."""

from __future__ import annotations

from sqlmodel import Session as Transaction
from sqlmodel import col, select

from sessions import mutations, queries
from sessions.errors import RecordNotFound
from sessions.mixin import StorePart, after
from sessions.records import Message, Session
from sessions.tables import MessageRow, SessionRow
from sessions.validation import checked_int, checked_text


class Branches(StorePart):
    """Heads, and what they can be moved to."""

    def path(self, session_id: int) -> list[Message]:
        """Return the messages from the root to the session's head, oldest first."""
        with self._database.reading() as transaction:
            return queries.path_to(transaction, queries.session_row(transaction, session_id).head_id)

    def path_to(self, message_id: int) -> list[Message]:
        """Return the messages from the root to this one, oldest first. Raises RecordNotFound."""
        with self._database.reading() as transaction:
            return queries.path_to(transaction, queries.message_row(transaction, message_id).id)

    def alternatives(self, message_id: int) -> list[Message]:
        """Return what stands in this message's place, itself included, oldest first.

        That is every message of its role under its parent, forks' included; of roots, its session's own.
        """
        with self._database.reading() as transaction:
            row = queries.message_row(transaction, message_id)
            same_place = (
                col(MessageRow.parent_id).is_(None) & (col(MessageRow.session_id) == row.session_id)
                if row.parent_id is None
                else col(MessageRow.parent_id) == row.parent_id
            )
            siblings = select(MessageRow).where(same_place, col(MessageRow.role) == row.role)
            return [
                queries.message_record(each)
                for each in transaction.exec(siblings.order_by(col(MessageRow.id)))
            ]

    def set_system(self, session_id: int, system: str, *, expected_head: int | None) -> Session:
        """Append a system message; the last one on a path counts. Raises HeadMoved, ReplyPending."""
        checked_text(system, "the system prompt")
        with self._database.writing() as transaction:
            row = mutations.locked_session(transaction, session_id)
            mutations.require_head(transaction, row, expected_head)
            mutations.append(transaction, row, parent_id=row.head_id, role="system", content=system)
            return after(transaction, row)

    def reset(self, session_id: int, *, system: str | None, expected_head: int | None) -> Session:
        """Begin a new tree, with ``system`` as its root if given; the old one stays stored.

        Raises HeadMoved, ReplyPending.
        """
        if system is not None:
            checked_text(system, "the system prompt")
        with self._database.writing() as transaction:
            row = mutations.locked_session(transaction, session_id)
            mutations.require_head(transaction, row, expected_head)
            mutations.start_tree(transaction, row, system)
            return after(transaction, row)

    def move_head(self, session_id: int, *, to: int | None, expected_head: int | None) -> Session:
        """Make another message of the session's tree its head, or none (an empty path); nothing is deleted.

        Raises HeadMoved, ReplyPending, or RecordNotFound for a message outside of the tree.
        """
        with self._database.writing() as transaction:
            row = mutations.locked_session(transaction, session_id)
            mutations.require_head(transaction, row, expected_head)
            row.head_id = None if to is None else _in_tree(transaction, row, to).id
            return after(transaction, row)

    def fork(self, session_id: int, *, name: str, at: int | None = None, seed: int | None = None) -> Session:
        """Make a session that goes its own way after message ``at`` of this one's tree (None: its head).

        The messages are shared, the settings copied; ``seed`` None copies that too. Raises InvalidName,
        SessionExists, or RecordNotFound for a message outside of the tree.
        """
        new_seed = None if seed is None else checked_int(seed, "the seed")
        with self._database.writing() as transaction:
            origin = mutations.locked_session(transaction, session_id)
            part_at = origin.head_id if at is None else _in_tree(transaction, origin, at).id
            row = mutations.new_session(
                name, seed=origin.seed if new_seed is None else new_seed, settings=origin.settings
            )
            row.head_id = row.forked_at = part_at
            row.forked_from = origin.id
            mutations.add_session(transaction, row)
            return after(transaction, row)


def _in_tree(transaction: Transaction, session: SessionRow, message_id: int) -> MessageRow:
    row = queries.message_row(transaction, message_id)
    if row.session_id != session.id:
        tree = queries.tree_ids(session)
        if transaction.exec(select(tree.c.id).where(tree.c.id == message_id)).first() is None:
            raise RecordNotFound(f"message of session {session.name!r}", message_id)
    return row
