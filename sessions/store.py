"""The store: sessions, their messages and their generations, each change one durable transaction.

Messages form trees and never change; a session is a named head. A session waits for at most one reply at a
time: while a generation is pending, its head stays where it is, so two programs cannot interleave turns.
Every method may be called from any thread; when a method that writes returns, what it wrote survives a crash
and a power cut; when it raises, nothing was written. Knows nothing about files, SQL dialects or models.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, get_args

from sqlalchemy.exc import IntegrityError
from sqlmodel import Session as Transaction
from sqlmodel import col, select

from sessions import changes, queries
from sessions.database import Database, open_database
from sessions.errors import InvalidValue, RecordNotFound, SessionExists, SessionNotFound
from sessions.records import Generation, Message, NewGeneration, ReplyStatus, Session, SessionSummary, Turn
from sessions.sqlite_file import default_path
from sessions.tables import CheckpointRow, GenerationRow, MessageRow, SessionRow
from sessions.values import (
    checked_generation,
    checked_int,
    checked_json,
    checked_name,
    checked_text,
    checked_token_ids,
    storable_text,
)

_NAMES_SEARCHED = 1000  # how many names are compared with one that was not found


def open_store(url_or_path: str | Path | None = None) -> Store:
    """Open the store at a path or SQLAlchemy URL (None: the user's own), making it where there is none.

    Raises StoreUnavailable (StoreLocked, StoreReadOnly, StoreFull), NotAStore, StoreDamaged, SchemaTooNew;
    a file that is refused stays as it was.
    """
    return Store(open_database(default_path() if url_or_path is None else url_or_path))


class Store:
    """Conversations in one database. A context manager; ``close`` ends it, StoreClosed follows then."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the database; what was acknowledged is durable already. Closing again is harmless."""
        self._database.close()

    def create_session(
        self, name: str, *, seed: int, system: str | None, settings: Mapping[str, object]
    ) -> Session:
        """Make a session; ``system``, if given, becomes its root message.

        Raises InvalidName, InvalidValue, or SessionExists (archived sessions keep their names).
        """
        checked_name(name)
        moment = changes.now()
        row = SessionRow(
            name=name,
            seed=checked_int(seed, "the seed"),
            settings=checked_json(settings, "the settings"),
            created=moment,
            last_used=moment,
        )
        if system is not None:
            checked_text(system, "the system prompt")
        with self._database.writing() as transaction:
            transaction.add(row)
            try:
                transaction.flush()
            except IntegrityError as error:
                raise SessionExists(name) from error
            _start_tree(transaction, row, system)
            return _after(transaction, row)

    def session(self, name: str) -> Session:
        """Return the session of this name; raise SessionNotFound with the nearest names."""
        checked_name(name)
        with self._database.reading() as transaction:
            row = transaction.exec(select(SessionRow).where(SessionRow.name == name)).one_or_none()
            if row is not None:
                return queries.session_record(row)
            names = queries.latest_names(transaction, _NAMES_SEARCHED)
        raise SessionNotFound(name, tuple(difflib.get_close_matches(name, names)))

    def sessions(self, *, archived: bool = False) -> list[SessionSummary]:
        """Return all sessions, last used first; archived ones only if asked for."""
        with self._database.reading() as transaction:
            return queries.summaries(transaction, archived=archived)

    def path(self, session_id: int) -> list[Message]:
        """Return the messages from the root to the session's head, oldest first."""
        with self._database.reading() as transaction:
            return queries.path_to(transaction, _session(transaction, session_id).head_id)

    def update_settings(
        self, session_id: int, *, settings: Mapping[str, object] | None = None, seed: int | None = None
    ) -> Session:
        """Set the given settings, leaving the others, and the seed if given; the head stays."""
        changed = {} if settings is None else checked_json(settings, "the settings")
        new_seed = None if seed is None else checked_int(seed, "the seed")
        with self._database.writing() as transaction:
            row = changes.locked_session(transaction, session_id)
            row.settings = {**row.settings, **changed}
            if new_seed is not None:
                row.seed = new_seed
            return _after(transaction, row)

    def set_system(self, session_id: int, system: str, *, expected_head: int | None) -> Session:
        """Append a system message; the last one on a path counts. Raises HeadMoved, ReplyPending."""
        checked_text(system, "the system prompt")
        with self._database.writing() as transaction:
            row = changes.locked_session(transaction, session_id)
            changes.require_head(transaction, row, expected_head)
            changes.append(transaction, row, parent_id=row.head_id, role="system", content=system)
            return _after(transaction, row)

    def reset(self, session_id: int, *, system: str | None, expected_head: int | None) -> Session:
        """Begin a new tree, with ``system`` as its root if given; the old one stays stored.

        Raises HeadMoved, ReplyPending.
        """
        if system is not None:
            checked_text(system, "the system prompt")
        with self._database.writing() as transaction:
            row = changes.locked_session(transaction, session_id)
            changes.require_head(transaction, row, expected_head)
            _start_tree(transaction, row, system)
            return _after(transaction, row)

    def remember_checkpoint(
        self,
        *,
        fingerprint: str,
        parts: Mapping[str, str],
        config: Mapping[str, object],
        step: int | None,
        path: str,
    ) -> int:
        """Return the id of the checkpoint with this fingerprint: stored once, its path kept up to date."""
        checked_text(fingerprint, "the fingerprint")
        row = CheckpointRow(
            fingerprint=fingerprint,
            parts=checked_json(dict(parts), "the fingerprint's parts"),
            config=checked_json(config, "the checkpoint's config"),
            step=None if step is None else checked_int(step, "the checkpoint's step"),
            path=storable_text(path),
            created=changes.now(),
        )
        with self._database.writing() as transaction:
            known = transaction.exec(
                select(CheckpointRow).where(CheckpointRow.fingerprint == fingerprint)
            ).one_or_none()
            if known is not None:
                known.path = storable_text(path)
                return known.id
            transaction.add(row)
            transaction.flush()
            return row.id

    def begin_turn(
        self, session_id: int, *, content: str, expected_head: int | None, generation: NewGeneration
    ) -> Turn:
        """Store a user message and the generation of its reply, both or neither.

        ``expected_head`` is the head that the caller last saw. Raises HeadMoved if it is another by now,
        ReplyPending if the session waits for a reply, RecordNotFound, InvalidValue.
        """
        checked_text(content, "the message")
        asked = checked_generation(generation)
        with self._database.writing() as transaction:
            row = changes.locked_session(transaction, session_id)
            changes.require_head(transaction, row, expected_head)
            user = changes.append(transaction, row, parent_id=row.head_id, role="user", content=content)
            return _turn(row, user, changes.ask_for_reply(transaction, row, user, asked))

    def begin_retry(self, session_id: int, *, user_message_id: int, generation: NewGeneration) -> Turn:
        """Store another attempt at the reply to the last user message; the head stays until it is finished.

        An attempt at it that is still pending is given up (failed) for this one. Raises HeadMoved if the
        session has gone on from that message and its reply, ReplyPending, RecordNotFound, InvalidValue.
        """
        checked_int(user_message_id, "a message id")
        asked = checked_generation(generation)
        with self._database.writing() as transaction:
            row = changes.locked_session(transaction, session_id)
            user = transaction.get(MessageRow, user_message_id)
            if user is None or user.role != "user":
                raise RecordNotFound("user message", user_message_id)
            head = None if row.head_id is None else transaction.get_one(MessageRow, row.head_id)
            if head is None or user.id not in {head.id, head.parent_id if head.role == "assistant" else None}:
                raise changes.head_moved(transaction, row, user_message_id)
            pending = queries.pending_row(transaction, session_id)
            if pending is not None:
                changes.conclude(pending, "failed", error="given up for another attempt")
            return _turn(row, user, changes.ask_for_reply(transaction, row, user, asked))

    def finish_reply(
        self,
        generation_id: int,
        *,
        content: str,
        token_ids: Sequence[int],
        status: ReplyStatus,
        finish_reason: str,
        receipt: Mapping[str, object],
        timings: Mapping[str, object],
    ) -> Message:
        """Store the reply with its outcome and move the head to it; once only.

        Raises GenerationFinished if there is an outcome already, RecordNotFound, InvalidValue.
        """
        if status not in get_args(ReplyStatus):
            raise InvalidValue(f"the reply's status is {status!r}: expected one of {get_args(ReplyStatus)}")
        checked_text(content, "the reply")
        checked_text(finish_reason, "the finish reason")
        ids = checked_token_ids(token_ids)
        plain_receipt = checked_json(receipt, "the receipt")
        plain_timings = checked_json(timings, "the timings")
        with self._database.writing() as transaction:
            session, row = changes.locked_generation(transaction, generation_id)
            reply = changes.append(
                transaction,
                session,
                parent_id=row.user_message_id,
                role="assistant",
                content=content,
                token_ids=ids,
                status=status,
            )
            changes.conclude(row, status)
            row.reply_id = reply.id
            row.finish_reason = finish_reason
            row.receipt = plain_receipt
            row.timings = plain_timings
            return queries.message_record(reply)

    def fail_generation(self, generation_id: int, *, error: str) -> None:
        """Record that no reply came of it, and why; the user message stays, and the head where it is.

        Raises GenerationFinished if there is an outcome already, RecordNotFound.
        """
        # An error's own text must not be what keeps it from being recorded.
        storable = storable_text(error)
        with self._database.writing() as transaction:
            _, row = changes.locked_generation(transaction, generation_id)
            changes.conclude(row, "failed", error=storable)

    def pending(self, session_id: int) -> Turn | None:
        """Return the turn whose reply is being generated, or was interrupted; None if there is none."""
        with self._database.reading() as transaction:
            session = _session(transaction, session_id)
            row = queries.pending_row(transaction, session_id)
            if row is None:
                return None
            return _turn(session, transaction.get_one(MessageRow, row.user_message_id), row)

    def generations(self, session_id: int) -> list[Generation]:
        """Return every attempt at a reply in this session, oldest first."""
        with self._database.reading() as transaction:
            _session(transaction, session_id)
            rows = transaction.exec(
                select(GenerationRow)
                .where(GenerationRow.session_id == session_id)
                .order_by(col(GenerationRow.id))
            )
            return [queries.generation_record(row) for row in rows]


def _session(transaction: Transaction, session_id: int) -> SessionRow:
    row = transaction.get(SessionRow, checked_int(session_id, "a session id"))
    if row is None:
        raise RecordNotFound("session", session_id)
    return row


def _start_tree(transaction: Transaction, session: SessionRow, system: str | None) -> None:
    session.head_id = None
    if system is not None:
        changes.append(transaction, session, parent_id=None, role="system", content=system)


def _after(transaction: Transaction, session: SessionRow) -> Session:
    transaction.flush()
    return queries.session_record(session)


def _turn(session: SessionRow, user: MessageRow, generation: GenerationRow) -> Turn:
    return Turn(
        session=queries.session_record(session),
        user=queries.message_record(user),
        generation=queries.generation_record(generation),
    )
