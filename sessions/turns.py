"""Turns: a user's message and the reply to it, from what it is asked for with to what became of it.

The message and its pending generation are durable before anything is generated, the reply before anybody is
told that it is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

from sqlmodel import col, select

from sessions import mutations, queries
from sessions.errors import InvalidValue, RecordNotFound
from sessions.mixin import StorePart, turn_record
from sessions.records import (
    Checkpoint,
    Generation,
    Message,
    NewGeneration,
    RecordedTurn,
    ReplyStatus,
    Role,
    Turn,
)
from sessions.tables import CheckpointRow, GenerationRow, MessageRow
from sessions.validation import (
    checked_generation,
    checked_int,
    checked_json,
    checked_label,
    checked_text,
    checked_token_ids,
    storable_text,
)


class Turns(StorePart):
    """Turns, the generations behind them, and the checkpoints that these name."""

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
        checked_label(fingerprint, "the fingerprint")
        row = CheckpointRow(
            fingerprint=fingerprint,
            parts=checked_json(dict(parts), "the fingerprint's parts"),
            config=checked_json(config, "the checkpoint's config"),
            step=None if step is None else checked_int(step, "the checkpoint's step"),
            path=storable_text(path),
            created=mutations.now(),
        )
        with self._database.writing() as transaction:
            return mutations.remember(transaction, row).id

    def checkpoint(self, checkpoint_id: int) -> Checkpoint:
        """Return a checkpoint that was remembered. Raises RecordNotFound."""
        with self._database.reading() as transaction:
            row = transaction.get(CheckpointRow, checked_int(checkpoint_id, "a checkpoint id"))
            if row is None:
                raise RecordNotFound("checkpoint", checkpoint_id)
            return queries.checkpoint_record(row)

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
            row = mutations.locked_session(transaction, session_id)
            mutations.require_head(transaction, row, expected_head)
            user = mutations.append(transaction, row, parent_id=row.head_id, role="user", content=content)
            return turn_record(row, user, mutations.ask_for_reply(transaction, row, user, asked))

    def begin_session(
        self,
        name: str,
        *,
        seed: int,
        settings: Mapping[str, object],
        messages: Sequence[tuple[Role, str]],
        generation: NewGeneration,
        archived: bool = False,
    ) -> Turn:
        """Create a session with a whole conversation and the pending reply to its last message, or nothing.

        Args:
            name: The session's name.
            seed: The session's seed.
            settings: The session's settings.
            messages: (role, content) of each message, oldest first; the last one is a user's.
            generation: What the reply is asked for with.
            archived: Whether the session is left out of lists and searches.

        Raises:
            InvalidName, InvalidValue, SessionExists, RecordNotFound: Nothing was written.

        """
        row = mutations.new_session(name, seed=seed, settings=settings)
        row.archived = archived
        asked = checked_generation(generation)
        for role, content in messages:
            if role not in get_args(Role):
                raise InvalidValue(f"a message's role is {role!r}: expected one of {get_args(Role)}")
            checked_text(content, "a message")
        if not messages or messages[-1][0] != "user":
            raise InvalidValue("the last message is not a user's: expected one that a reply can answer")
        with self._database.writing() as transaction:
            mutations.add_session(transaction, row)
            for role, content in messages:
                mutations.append(transaction, row, parent_id=row.head_id, role=role, content=content)
            user = transaction.get_one(MessageRow, row.head_id)
            return turn_record(row, user, mutations.ask_for_reply(transaction, row, user, asked))

    def turn(self, generation_id: int) -> Turn:
        """Return the session, the user message and the generation of a reply, pending or not.

        Raises RecordNotFound.
        """
        with self._database.reading() as transaction:
            row = transaction.get(GenerationRow, checked_int(generation_id, "a generation id"))
            if row is None:
                raise RecordNotFound("generation", generation_id)
            session = queries.session_row(transaction, row.session_id)
            return turn_record(session, transaction.get_one(MessageRow, row.user_message_id), row)

    def begin_retry(
        self,
        session_id: int,
        *,
        user_message_id: int,
        generation: NewGeneration,
        expected_head: int | None = None,
    ) -> Turn:
        """Store another attempt at the reply to a user message of the path.

        The head stays until the reply is finished. ``expected_head`` is the head that the caller last saw;
        None leaves it unchecked. An attempt at the same message that is still pending is given up (failed)
        for this one. Raises HeadMoved if the head is another, or the message is not on its path (any more),
        ReplyPending if the session waits for a reply to another message, RecordNotFound, InvalidValue.
        """
        checked_int(user_message_id, "a message id")
        asked = checked_generation(generation)
        with self._database.writing() as transaction:
            row = mutations.locked_session(transaction, session_id)
            user = transaction.get(MessageRow, user_message_id)
            if user is None or user.role != "user":
                raise RecordNotFound("user message", user_message_id)
            if expected_head not in {None, row.head_id}:
                raise mutations.head_moved(transaction, row, expected_head)
            if not queries.is_on_path(transaction, user_message_id, row.head_id):
                raise mutations.head_moved(transaction, row, user_message_id)
            pending = queries.pending_row(transaction, session_id)
            if pending is not None:
                if pending.user_message_id != user_message_id:
                    raise mutations.reply_pending(row, pending)
                mutations.conclude(pending, "failed", error="given up for another attempt")
            return turn_record(row, user, mutations.ask_for_reply(transaction, row, user, asked))

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
        checked_label(finish_reason, "the finish reason")
        ids = checked_token_ids(token_ids)
        plain_receipt = checked_json(receipt, "the receipt")
        plain_timings = checked_json(timings, "the timings")
        with self._database.writing() as transaction:
            session, row = mutations.locked_generation(transaction, generation_id)
            reply = mutations.append(
                transaction,
                session,
                parent_id=row.user_message_id,
                role="assistant",
                content=content,
                token_ids=ids,
                status=status,
            )
            mutations.conclude(row, status)
            row.reply_id = reply.id
            row.finish_reason = finish_reason
            row.receipt = plain_receipt
            row.timings = plain_timings
            row.digest = queries.digest_of(transaction, row)
            return queries.message_record(reply)

    def fail_generation(self, generation_id: int, *, error: str) -> None:
        """Record that no reply came of it, and why; the user message stays, and the head where it is.

        Raises GenerationFinished if there is an outcome already, RecordNotFound.
        """
        # An error's own text must not be what keeps it from being recorded.
        storable = storable_text(error)
        with self._database.writing() as transaction:
            _, row = mutations.locked_generation(transaction, generation_id)
            mutations.conclude(row, "failed", error=storable)

    def pending(self, session_id: int) -> Turn | None:
        """Return the turn whose reply is being generated, or was interrupted; None if there is none."""
        with self._database.reading() as transaction:
            session = queries.session_row(transaction, session_id)
            row = queries.pending_row(transaction, session_id)
            if row is None:
                return None
            return turn_record(session, transaction.get_one(MessageRow, row.user_message_id), row)

    def generations(self, session_id: int) -> list[Generation]:
        """Return every attempt at a reply in this session, oldest first."""
        with self._database.reading() as transaction:
            queries.session_row(transaction, session_id)
            rows = transaction.exec(
                select(GenerationRow)
                .where(GenerationRow.session_id == session_id)
                .order_by(col(GenerationRow.id))
            )
            return [queries.generation_record(row) for row in rows]

    def recorded_turns(self, session_id: int, *, every_branch: bool = False) -> list[RecordedTurn]:
        """Return the turns whose reply has a generation: those of the path, or of the whole tree, by id.

        A reply that came from elsewhere (an import of plain messages) has none, and is left out.
        """
        with self._database.reading() as transaction:
            session = queries.session_row(transaction, session_id)
            return queries.recorded_turns(transaction, session, every_branch=every_branch)
