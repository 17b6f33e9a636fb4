"""The steps that writing transactions share: lock a session, check its head, append, finish a generation.

Called inside a writing transaction only.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime

from sqlalchemy.exc import IntegrityError
from sqlmodel import Session as Transaction
from sqlmodel import col, select

from sessions.digest import message_digest
from sessions.errors import GenerationFinished, HeadMoved, RecordNotFound, ReplyPending, SessionExists
from sessions.fields import column_values, read
from sessions.queries import message_row, pending_row, shortened
from sessions.records import Generation, GenerationStatus, Message, NewGeneration, ReplyStatus, Role, Session
from sessions.tables import CheckpointRow, GenerationRow, MessageRow, SessionRow
from sessions.validation import checked_int, checked_json, checked_name


def now() -> datetime:
    """Return the current time, in UTC."""
    return datetime.now(UTC)


def new_session(name: str, *, seed: int, settings: Mapping[str, object]) -> SessionRow:
    """Return a session row that is not added yet. Raises InvalidName, InvalidValue."""
    moment = now()
    return SessionRow(
        name=checked_name(name),
        seed=checked_int(seed, "the seed"),
        settings=checked_json(settings, "the settings"),
        created=moment,
        last_used=moment,
    )


def add_session(transaction: Transaction, row: SessionRow) -> None:
    """Write a new session. Raises SessionExists."""
    with _unique_name(transaction, row.name):
        transaction.add(row)


def rename_session(transaction: Transaction, row: SessionRow, name: str) -> None:
    """Give a session another name. Raises SessionExists."""
    with _unique_name(transaction, name):
        row.name = name


@contextmanager
def _unique_name(transaction: Transaction, name: str) -> Generator[None, None, None]:
    """Write the changes of the block; raise SessionExists if another session has the name."""
    try:
        with transaction.begin_nested():
            yield
    except IntegrityError as error:
        archived = transaction.exec(select(SessionRow.archived).where(SessionRow.name == name)).first()
        raise SessionExists(name, archived=bool(archived)) from error


def after(transaction: Transaction, session: SessionRow) -> Session:
    """Write the changes, and return the session as it is then."""
    transaction.flush()
    return read(Session, session)


def start_tree(transaction: Transaction, session: SessionRow, system: str | None) -> None:
    """Start a new tree, with ``system`` as its root if given."""
    if system is None:
        move_head(session, None)
    else:
        append(transaction, session, parent_id=None, role="system", content=system)


def known_checkpoint(transaction: Transaction, checkpoint: CheckpointRow) -> CheckpointRow:
    """Return the row with the checkpoint's fingerprint; ``checkpoint`` itself, written, where there is none.

    A row that is there already stays as it is.
    """
    same = select(CheckpointRow).where(CheckpointRow.fingerprint == checkpoint.fingerprint)
    known = transaction.exec(same).one_or_none()
    if known is not None:
        return known
    try:
        with transaction.begin_nested():
            transaction.add(checkpoint)
    except IntegrityError:
        # Another program was faster, on a database where writers do not exclude each other.
        return transaction.exec(same).one()
    return checkpoint


def locked_session(transaction: Transaction, session_id: int) -> SessionRow:
    """Return the session, locked against other programs where the write lock does not do so already.

    Raises RecordNotFound, or StoreDamaged for values that must not be built upon.
    """
    checked_int(session_id, "a session id")
    row = transaction.exec(
        select(SessionRow).where(col(SessionRow.id) == session_id).with_for_update()
    ).one_or_none()
    if row is None:
        raise RecordNotFound("session", session_id)
    read(Session, row)
    return row


def require_head(transaction: Transaction, session: SessionRow, expected_head: int | None) -> None:
    """Raise HeadMoved if the session has another head, ReplyPending if it waits for a reply."""
    if session.head_id != expected_head:
        raise head_moved(transaction, session, expected_head)
    pending = pending_row(transaction, session.id)
    if pending is not None:
        raise reply_pending(session, pending)


def head_moved(transaction: Transaction, session: SessionRow, expected: int | None) -> HeadMoved:
    """Return the error, with a description of the new head."""
    found = None if session.head_id is None else read(Message, message_row(transaction, session.head_id))
    what = (
        "it was reset"
        if found is None
        else f"{found.role}, {found.created:%F %T} UTC: {shortened(found.content)!r}"
    )
    return HeadMoved(session.name, expected=expected, found=session.head_id, what=what)


def reply_pending(session: SessionRow, pending: GenerationRow) -> ReplyPending:
    """Return the error, with the time when the reply was started."""
    found = read(Generation, pending)
    return ReplyPending(session.name, generation_id=found.id, since=f"{found.created:%F %T} UTC")


def append(
    transaction: Transaction,
    session: SessionRow,
    *,
    parent_id: int | None,
    role: Role,
    content: str,
    token_ids: tuple[int, ...] | None = None,
    status: ReplyStatus = "complete",
) -> MessageRow:
    """Write a message below ``parent_id`` (a root for None) and make it the session's head."""
    parent = None if parent_id is None else read(Message, message_row(transaction, parent_id))
    row = MessageRow(
        session_id=session.id,
        parent_id=parent_id,
        position=0 if parent is None else parent.position + 1,
        role=role,
        content=content,
        token_ids=None if token_ids is None else list(token_ids),
        status=status,
        digest=message_digest(
            parent=None if parent is None else parent.digest,
            role=role,
            content=content,
            status=status,
            token_ids=token_ids,
        ),
        created=now(),
    )
    transaction.add(row)
    transaction.flush()
    move_head(session, row.id)
    return row


def move_head(session: SessionRow, head_id: int | None) -> None:
    """Make a message (None: no message) the session's head, and count this moment as its last use."""
    session.head_id = head_id
    session.last_used = now()


def request_reply(
    transaction: Transaction, session: SessionRow, user: MessageRow, asked: NewGeneration
) -> GenerationRow:
    """Write the pending generation of a reply to ``user``. Raises RecordNotFound for its checkpoint."""
    checkpoint = transaction.get(CheckpointRow, asked.checkpoint_id)
    if checkpoint is None:
        raise RecordNotFound("checkpoint", asked.checkpoint_id)
    path = checkpoint.path if asked.checkpoint_path is None else asked.checkpoint_path
    row = GenerationRow(
        **column_values(
            asked,
            checkpoint_path=path,
            session_id=session.id,
            user_message_id=user.id,
            status="pending",
            created=now(),
        )
    )
    transaction.add(row)
    transaction.flush()
    return row


def locked_generation(transaction: Transaction, generation_id: int) -> tuple[SessionRow, GenerationRow]:
    """Return a generation and its session, locked. Raises RecordNotFound."""
    checked_int(generation_id, "a generation id")
    session_id = transaction.exec(
        select(GenerationRow.session_id).where(col(GenerationRow.id) == generation_id)
    ).one_or_none()
    if session_id is None:
        raise RecordNotFound("generation", generation_id)
    # The row is read after the lock: only then is its status certain.
    session = locked_session(transaction, session_id)
    return session, transaction.get_one(GenerationRow, generation_id)


def require_pending(row: GenerationRow) -> None:
    """Raise GenerationFinished if the generation has its outcome."""
    if row.status != "pending":
        raise GenerationFinished(row.id, row.status)


def finish(row: GenerationRow, status: GenerationStatus, *, error: str | None = None) -> None:
    """Give a pending generation its outcome. Raises GenerationFinished if it has one."""
    require_pending(row)
    row.status = status
    row.error = error
    row.finished = now()
