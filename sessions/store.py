"""The store: sessions, their messages and their generations, each change one durable transaction.

Messages form trees and never change; a session is a named head. A session waits for at most one reply at a
time: while a generation is pending, its head stays where it is, so two programs cannot interleave turns.
Every method may be called from any thread; when a method that writes returns, its changes survive a crash and
a power cut; when it raises, nothing was written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from sessions import branches, listing, maintenance, queries, search, session_crud, transfer, turns
from sessions.archive_validation import checked_archive
from sessions.claims import Claims
from sessions.database import Database, Missing, open_database
from sessions.place import default_path, expanded
from sessions.records import (
    Checkpoint,
    Generation,
    Health,
    Message,
    NewGeneration,
    RecordedTurn,
    ReplyStatus,
    Role,
    SearchHit,
    Session,
    SessionArchive,
    SessionSummary,
    Turn,
    Verification,
)
from sessions.validation import checked_int


def open_store(url_or_path: str | Path | None = None, *, missing: Missing = "create") -> Store:
    """Open the store at a path or SQLAlchemy URL.

    Args:
        url_or_path: its place; None is the user's own store.
        missing: what to do where there is no file: "create" it with its folders, "create file" in a folder
            that exists, or "refuse".

    Raises:
        StoreNotFound: there is no store, and ``missing`` does not permit to create it.
        StoreUnavailable: it cannot be used (StoreLocked, StoreReadOnly, StoreFull).
        NotAStore, StoreDamaged, SchemaTooNew: the file is refused and stays as it was.
    """
    place = default_path() if url_or_path is None else url_or_path
    return Store(open_database(place, missing=missing))


class Store:
    """Conversations in one database. A context manager; every call after ``close`` raises StoreClosed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def caution(self) -> str | None:
        """A line that the user should read, such as that the store is new or lies on a network mount."""
        return self._database.caution

    def close(self) -> None:
        """Close the database; what was acknowledged is durable already. Closing twice is harmless."""
        self._database.close()

    # Sessions

    def create_session(
        self, name: str, *, seed: int, system: str | None, settings: Mapping[str, object]
    ) -> Session:
        """Create a session; ``system``, if given, becomes its root message.

        Raises InvalidName, InvalidValue, or SessionExists (archived sessions keep their names).
        """
        with self._database.writing() as transaction:
            return session_crud.create(transaction, name, seed=seed, system=system, settings=settings)

    def session(self, name: str, *, archived: bool = True) -> Session:
        """Return the session of this name.

        Raises SessionNotFound with similar names, or SessionArchived for an archived session where
        ``archived`` is False.
        """
        with self._database.reading() as transaction:
            return session_crud.by_name(transaction, name, archived=archived)

    def session_by_id(self, session_id: int) -> Session:
        """Return the session, whatever its name is by now. Raises RecordNotFound."""
        with self._database.reading() as transaction:
            return queries.session(transaction, session_id)

    def sessions(
        self, *, archived: bool = False, limit: int | None = None, offset: int = 0
    ) -> list[SessionSummary]:
        """Return a page of the sessions, last used first; archived ones too if ``archived`` is set.

        Raises InvalidValue for a negative limit or offset.
        """
        if limit is not None:
            checked_int(limit, "the limit", least=0)
        checked_int(offset, "the offset", least=0)
        with self._database.reading() as transaction:
            return listing.page(transaction, archived=archived, limit=limit, offset=offset)

    def last_used(self) -> Session | None:
        """Return the session whose messages changed last, archived ones left out; None if there is none."""
        with self._database.reading() as transaction:
            return session_crud.last_used(transaction)

    def names(self, prefix: str = "", limit: int = 50) -> list[str]:
        """Return the names that begin with ``prefix``, last used first, archived ones left out."""
        with self._database.reading() as transaction:
            return session_crud.latest_names(transaction, prefix, limit)

    def search(self, text: str, *, limit: int = 20, offset: int = 0) -> list[SearchHit]:
        """Return the messages that have all words of ``text``, newest first, without archived sessions'.

        No text is an error. Raises InvalidValue for a negative limit or offset.
        """
        checked_int(limit, "the limit", least=0)
        checked_int(offset, "the offset", least=0)
        with self._database.reading() as transaction:
            return search.hits(transaction, text, limit=limit, offset=offset)

    def rename(self, session_id: int, name: str) -> Session:
        """Give the session another name. Raises InvalidName, SessionExists, RecordNotFound."""
        with self._database.writing() as transaction:
            return session_crud.rename(transaction, session_id, name)

    def archive(self, session_id: int, archived: bool = True) -> Session:  # noqa: FBT001, FBT002 - as called
        """Take the session out of the list, or put it back; its name stays taken, nothing is lost."""
        with self._database.writing() as transaction:
            return session_crud.archive(transaction, session_id, archived=archived)

    def purge(self, session_id: int) -> None:
        """Delete an archived session permanently; messages that its forks still use move to them.

        Raises InvalidValue for a session that is not archived, RecordNotFound.
        """
        with self._database.writing() as transaction:
            session_crud.purge(transaction, session_id)

    def update_settings(
        self, session_id: int, *, settings: Mapping[str, object] | None = None, seed: int | None = None
    ) -> Session:
        """Set the given settings, leaving the others, and the seed if given; the head stays."""
        with self._database.writing() as transaction:
            return session_crud.update_settings(transaction, session_id, settings=settings, seed=seed)

    # Branches

    def path(self, session_id: int) -> list[Message]:
        """Return the messages from the root to the session's head, oldest first."""
        with self._database.reading() as transaction:
            return queries.path_of(transaction, queries.session_row(transaction, session_id).head_id)

    def path_to(self, message_id: int) -> list[Message]:
        """Return the messages from the root to this one, oldest first. Raises RecordNotFound."""
        with self._database.reading() as transaction:
            return queries.path_of(transaction, queries.message_row(transaction, message_id).id)

    def set_system(self, session_id: int, system: str, *, expected_head: int | None) -> Session:
        """Append a system message; the last one on a path counts. Raises HeadMoved, ReplyPending."""
        with self._database.writing() as transaction:
            return branches.set_system(transaction, session_id, system, expected_head=expected_head)

    def reset(self, session_id: int, *, system: str | None, expected_head: int | None) -> Session:
        """Start a new tree, with ``system`` as its root if given; the old one stays stored.

        Raises HeadMoved, ReplyPending.
        """
        with self._database.writing() as transaction:
            return branches.reset(transaction, session_id, system=system, expected_head=expected_head)

    def move_head(self, session_id: int, *, to: int | None, expected_head: int | None) -> Session:
        """Make another message of the session's tree its head, or none (an empty path); nothing is deleted.

        Raises HeadMoved, ReplyPending, or RecordNotFound for a message outside of the tree.
        """
        with self._database.writing() as transaction:
            return branches.move_head(transaction, session_id, to=to, expected_head=expected_head)

    def fork(self, session_id: int, *, name: str, at: int | None = None, seed: int | None = None) -> Session:
        """Create a session that shares this one's messages up to message ``at`` (None: its head).

        The settings are copied; ``seed`` None copies the seed too. Raises InvalidName, SessionExists, or
        RecordNotFound for a message outside of the tree.
        """
        with self._database.writing() as transaction:
            return branches.fork(transaction, session_id, name=name, at=at, seed=seed)

    # Turns

    def remember_checkpoint(
        self,
        *,
        fingerprint: str,
        parts: Mapping[str, str],
        config: Mapping[str, object],
        step: int | None,
        path: str,
    ) -> int:
        """Return the id of the checkpoint with this fingerprint: stored once, and brought up to date.

        For a caller that has the weights: what it says replaces what a file from elsewhere may have said.
        """
        with self._database.writing() as transaction:
            return turns.remember_checkpoint(
                transaction, fingerprint=fingerprint, parts=parts, config=config, step=step, path=path
            )

    def checkpoint(self, checkpoint_id: int) -> Checkpoint:
        """Return a checkpoint that was remembered. Raises RecordNotFound."""
        with self._database.reading() as transaction:
            return turns.checkpoint(transaction, checkpoint_id)

    def begin_turn(
        self, session_id: int, *, content: str, expected_head: int | None, generation: NewGeneration
    ) -> Turn:
        """Store a user message and the generation of its reply, both or neither.

        Args:
            session_id: the session.
            content: the message.
            expected_head: the head that the caller last read.
            generation: the request for the reply.

        Raises:
            HeadMoved: the head is another by now.
            ReplyPending: the session waits for a reply.
            RecordNotFound, InvalidValue: the session or the checkpoint is unknown, or a value unfit.
        """
        with self._database.writing() as transaction:
            return turns.begin_turn(
                transaction, session_id, content=content, expected_head=expected_head, generation=generation
            )

    def begin_edit(
        self,
        session_id: int,
        *,
        user_message_id: int,
        content: str,
        expected_head: int | None,
        generation: NewGeneration,
    ) -> Turn:
        """Store a user message next to one of the path, and the generation of its reply, both or neither.

        Args:
            session_id: the session.
            user_message_id: the message of the path that the new one stands next to.
            content: the new message.
            expected_head: the head that the caller last read.
            generation: the request for the reply.

        Raises as ``begin_turn``, also for a message that is not on the path.
        """
        with self._database.writing() as transaction:
            return turns.begin_edit(
                transaction,
                session_id,
                user_message_id=user_message_id,
                content=content,
                expected_head=expected_head,
                generation=generation,
            )

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
            name: the session's name.
            seed: the session's seed.
            settings: the session's settings.
            messages: (role, content) of each message, oldest first; the last one is a user's.
            generation: the request for the reply.
            archived: whether the session is left out of lists and searches.

        Raises:
            InvalidName, InvalidValue, SessionExists, RecordNotFound: nothing was written.
        """
        with self._database.writing() as transaction:
            return turns.begin_session(
                transaction,
                name,
                seed=seed,
                settings=settings,
                messages=messages,
                generation=generation,
                archived=archived,
            )

    def begin_retry(
        self,
        session_id: int,
        *,
        user_message_id: int,
        generation: NewGeneration,
        expected_head: int | None = None,
    ) -> Turn:
        """Store another attempt at the reply to a user message of the path.

        The head stays until the reply is finished. An attempt at the same message that is still pending is
        recorded as failed.

        Args:
            session_id: the session.
            user_message_id: the message to be answered.
            generation: the request for the reply.
            expected_head: the head that the caller last read; None leaves it unchecked.

        Raises:
            HeadMoved: the head is different, or the message is no longer on its path.
            ReplyPending: the session waits for a reply to another message.
            RecordNotFound, InvalidValue: as ``begin_turn``.
        """
        with self._database.writing() as transaction:
            return turns.begin_retry(
                transaction,
                session_id,
                user_message_id=user_message_id,
                generation=generation,
                expected_head=expected_head,
            )

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
        """Store the reply with its outcome and move the head to it.

        A repeated call with the same reply returns the stored one, so a caller may retry after any
        StoreUnavailable. Raises GenerationFinished if there is another outcome, RecordNotFound, InvalidValue.
        """
        with self._database.writing() as transaction:
            return turns.finish_reply(
                transaction,
                generation_id,
                content=content,
                token_ids=token_ids,
                status=status,
                finish_reason=finish_reason,
                receipt=receipt,
                timings=timings,
            )

    def fail_generation(self, generation_id: int, *, error: str) -> None:
        """Record that a generation ended without a reply, and why; the message stays, and the head.

        A repeated call with the same error is harmless. Raises GenerationFinished if there is another
        outcome, RecordNotFound.
        """
        with self._database.writing() as transaction:
            turns.fail_generation(transaction, generation_id, error=error)

    def pending(self, session_id: int) -> Turn | None:
        """Return the turn whose reply is being generated, or was interrupted; None if there is none."""
        with self._database.reading() as transaction:
            return turns.pending(transaction, session_id)

    def pending_turns(self, *, limit: int = 100) -> list[Turn]:
        """Return turns of any session whose reply is being generated, or was interrupted, oldest first.

        Looks at the latest 10,000 generations. Raises InvalidValue for a negative limit.
        """
        checked_int(limit, "the limit", least=0)
        with self._database.reading() as transaction:
            return turns.recent_pending(transaction, limit)

    def claims(self) -> Claims | None:
        """Return claims on replies, for servers that share the store; None for a SQLite file.

        The caller closes them.
        """
        return self._database.claims()

    def turn(self, generation_id: int) -> Turn:
        """Return the session, the user message and the generation of a reply, pending or not.

        Raises RecordNotFound.
        """
        with self._database.reading() as transaction:
            return turns.turn(transaction, generation_id)

    def generations(self, session_id: int) -> list[Generation]:
        """Return every attempt at a reply in this session, oldest first."""
        with self._database.reading() as transaction:
            return turns.generations(transaction, session_id)

    def recorded_turns(self, session_id: int, *, every_branch: bool = False) -> list[RecordedTurn]:
        """Return the turns whose reply has a generation: those of the path, or of the whole tree, by id.

        A reply without one (from an import of plain messages) is left out.
        """
        with self._database.reading() as transaction:
            session = queries.session_row(transaction, session_id)
            return queries.recorded_turns(transaction, session, every_branch=every_branch)

    def last_turn(self, session_id: int) -> RecordedTurn | None:
        """Return the last turn of the path whose reply has a generation; None if there is none."""
        with self._database.reading() as transaction:
            return queries.last_turn(transaction, queries.session_row(transaction, session_id))

    def variants(self, session_id: int, user_message_id: int) -> list[RecordedTurn]:
        """Return the recorded turns in the place of one: every reply to it and to its edited versions."""
        with self._database.reading() as transaction:
            session = queries.session_row(transaction, session_id)
            return queries.variants(transaction, session, queries.message_row(transaction, user_message_id))

    def next_attempt(self, session_id: int, user_message_id: int) -> int:
        """Return the number of the next attempt at a reply to a message, counting failed ones, from 0."""
        with self._database.reading() as transaction:
            session = queries.session_row(transaction, session_id)
            return queries.next_attempt(transaction, session, user_message_id)

    # Whole sessions, and the whole store

    def verify(self, session_id: int) -> Verification:
        """Recompute the digests and checksums of the session's whole tree. Raises RecordNotFound."""
        return self._stored(session_id).verification()

    def export_session(self, session_id: int) -> SessionArchive:
        """Return the session with its whole tree, ancestors of a fork included. Raises RecordNotFound."""
        return self._stored(session_id).archive()

    def head_digests(self) -> dict[str, str]:
        """Return the digest of each session's head by the session's name, without archived sessions'.

        The digest covers every message of the path to the head.
        """
        with self._database.reading() as transaction:
            return queries.head_digests(transaction)

    def import_session(self, archive: SessionArchive, *, name: str | None = None) -> Session:
        """Store an archive as a new session under its own name or ``name``: all of it, or nothing.

        Raises InvalidValue for an archive that is inconsistent or was changed, InvalidName, SessionExists.
        """
        return self.import_sessions([archive], names=None if name is None else [name])[0]

    def import_sessions(
        self, archives: Sequence[SessionArchive], *, names: Sequence[str] | None = None
    ) -> list[Session]:
        """Store archives as new sessions, under their own names or ``names``: all of them, or none.

        Rows that are stored already, such as those of known checkpoints, stay as they are. Raises as
        ``import_session`` does, for the first archive that cannot be stored.
        """
        checked = [checked_archive(archive) for archive in archives]
        chosen = [archive.session.name for archive in checked] if names is None else names
        with self._database.writing() as transaction:
            return transfer.import_archives(transaction, checked, chosen)

    def backup(self, path: str | Path) -> None:
        """Copy everything that was acknowledged to a new private file, which is a store itself.

        Raises InvalidValue where something lies at ``path`` already, StoreUnavailable where the copy cannot
        be written or the store is not a file.
        """
        self._database.back_up(expanded(path))

    def examine(self) -> Health:
        """Read and verify everything that is stored, from a copy, so that no writer has to wait."""
        return maintenance.examine(self._database)

    def check(self) -> list[str]:
        """Return the faults that ``examine`` finds, one line each; [] when all is well."""
        return list(self.examine().faults)

    def _stored(self, session_id: int) -> transfer.StoredSession:
        with self._database.reading() as transaction:
            return transfer.StoredSession(transaction, session_id)
