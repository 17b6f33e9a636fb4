"""Sessions as a whole: taken out as a value, brought in from one, and verified."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import insert, or_
from sqlmodel import Session as Transaction
from sqlmodel import col, select

from sessions import mutations, queries
from sessions.archive_validation import admit
from sessions.integrity import verified
from sessions.mixin import StorePart, after
from sessions.records import Session, SessionArchive, Verification
from sessions.tables import CheckpointRow, GenerationRow, MessageRow, SessionRow


class Archives(StorePart):
    """Whole trees."""

    def verify(self, session_id: int) -> Verification:
        """Recompute the digests of the session's whole tree, and digest its path. Raises RecordNotFound."""
        archive = self.export_session(session_id)
        return verified(archive.session.head_id, archive.messages, archive.generations, archive.checkpoints)

    def export_session(self, session_id: int) -> SessionArchive:
        """Return the session with its whole tree, ancestors of a fork included. Raises RecordNotFound."""
        with self._database.reading() as transaction:
            session = queries.session_row(transaction, session_id)
            tree = queries.tree_ids(session)
            messages = transaction.exec(
                select(MessageRow).join(tree, col(MessageRow.id) == tree.c.id).order_by(col(MessageRow.id))
            ).all()
            generations = _generations(transaction, session)
            known = {row.checkpoint_id for row in generations}
            checkpoints = [transaction.get_one(CheckpointRow, each) for each in sorted(known)]
            frozen = (
                tuple(queries.message_record(row) for row in messages),
                tuple(queries.generation_record(row) for row in generations),
                tuple(queries.checkpoint_record(row) for row in checkpoints),
            )
            return SessionArchive(
                session=queries.session_record(session),
                messages=frozen[0],
                generations=frozen[1],
                checkpoints=frozen[2],
                digest=verified(session.head_id, *frozen).digest,
            )

    def import_session(self, archive: SessionArchive, *, name: str | None = None) -> Session:
        """Store an archive as a new session under its own name or ``name``: all of it, or nothing.

        Raises InvalidValue for an archive that does not hang together or whose digests do not hold,
        InvalidName, SessionExists.
        """
        return self.import_sessions([archive], names=None if name is None else [name])[0]

    def import_sessions(
        self, archives: Sequence[SessionArchive], *, names: Sequence[str] | None = None
    ) -> list[Session]:
        """Store archives as new sessions, under their own names or ``names``: all of them, or none.

        Raises as ``import_session`` does, for the first archive that cannot be stored.
        """
        for archive in archives:
            admit(archive)
        own = [archive.session.name for archive in archives] if names is None else names
        rows = [_imported(archive.session, name) for archive, name in zip(archives, own, strict=True)]
        with self._database.writing() as transaction:
            return [
                _add_session(transaction, row, archive) for row, archive in zip(rows, archives, strict=True)
            ]


def _imported(origin: Session, name: str) -> SessionRow:
    row = mutations.new_session(name, seed=origin.seed, settings=origin.settings)
    row.created = origin.created
    row.archived = bool(origin.archived)
    return row


def _add_session(transaction: Transaction, row: SessionRow, archive: SessionArchive) -> Session:
    mutations.add_session(transaction, row)
    messages = _add_messages(transaction, row, archive)
    _add_generations(transaction, row, archive, messages)
    head_id, forked_at = archive.session.head_id, archive.session.forked_at
    row.head_id = None if head_id is None else messages[head_id]
    row.forked_at = None if forked_at is None else messages[forked_at]
    return after(transaction, row)


def _generations(transaction: Transaction, session: SessionRow) -> list[GenerationRow]:
    """Return the generations of the tree: the session's own, and those of replies that it shares."""
    tree = queries.tree_ids(session)
    belongs = or_(
        col(GenerationRow.session_id) == session.id, col(GenerationRow.reply_id).in_(select(tree.c.id))
    )
    return list(transaction.exec(select(GenerationRow).where(belongs).order_by(col(GenerationRow.id))))


def _add_messages(transaction: Transaction, session: SessionRow, archive: SessionArchive) -> dict[int, int]:
    """Write the messages; return the id that each has now by the one that it had."""
    ids: dict[int, int] = {}
    # Each needs its parent's new id; a plain statement for each costs a third of a flush.
    connection = transaction.connection()
    for message in archive.messages:
        values = {
            "session_id": session.id,
            "parent_id": None if message.parent_id is None else ids[message.parent_id],
            "position": message.position,
            "role": message.role,
            "content": message.content,
            "token_ids": None if message.token_ids is None else list(message.token_ids),
            "status": message.status,
            "digest": message.digest,
            "created": message.created,
        }
        key = connection.execute(insert(MessageRow), values).inserted_primary_key
        assert key is not None  # noqa: S101 - an insert of one row has one
        ids[message.id] = key[0]
    return ids


def _add_generations(
    transaction: Transaction, session: SessionRow, archive: SessionArchive, messages: dict[int, int]
) -> None:
    checkpoints = {
        checkpoint.id: mutations.remember(
            transaction,
            CheckpointRow(
                fingerprint=checkpoint.fingerprint,
                parts=dict(checkpoint.parts),
                config=dict(checkpoint.config),
                step=checkpoint.step,
                path=checkpoint.path,
                created=checkpoint.created,
            ),
        ).id
        for checkpoint in archive.checkpoints
    }
    for generation in archive.generations:
        transaction.add(
            GenerationRow(
                session_id=session.id,
                user_message_id=messages[generation.user_message_id],
                reply_id=None if generation.reply_id is None else messages[generation.reply_id],
                checkpoint_id=checkpoints[generation.checkpoint_id],
                seed=generation.seed,
                attempt=generation.attempt,
                sampling=dict(generation.sampling),
                max_new_tokens=generation.max_new_tokens,
                prompt_hash=generation.prompt_hash,
                trimmed_turns=generation.trimmed_turns,
                environment=dict(generation.environment),
                forced_ids=list(generation.forced_ids),
                status=generation.status,
                finish_reason=generation.finish_reason,
                receipt=None if generation.receipt is None else dict(generation.receipt),
                timings=None if generation.timings is None else dict(generation.timings),
                error=generation.error,
                digest=generation.digest,
                created=generation.created,
                finished=generation.finished,
            )
        )
