"""Create, find, rename, archive and delete sessions, and change their settings."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Mapping

from sqlalchemy import desc, func
from sqlmodel import Session as Transaction
from sqlmodel import col, select

from sessions import mutations
from sessions.errors import InvalidValue, SessionArchived, SessionNotFound
from sessions.fields import read
from sessions.purge import purge_session
from sessions.records import Session
from sessions.tables import SessionRow
from sessions.validation import checked_int, checked_json, checked_name, checked_text

_NAMES_COMPARED = 1000  # names that are compared with one that was not found


def create(
    transaction: Transaction, name: str, *, seed: int, system: str | None, settings: Mapping[str, object]
) -> Session:
    """Create a session; ``system``, if given, becomes its root message."""
    row = mutations.new_session(name, seed=seed, settings=settings)
    if system is not None:
        checked_text(system, "the system prompt")
    mutations.add_session(transaction, row)
    mutations.start_tree(transaction, row, system)
    return mutations.after(transaction, row)


def by_name(transaction: Transaction, name: str, *, archived: bool) -> Session:
    """Return the session of this name; ``archived`` False refuses an archived one."""
    checked_name(name)
    row = transaction.exec(select(SessionRow).where(SessionRow.name == name)).one_or_none()
    if row is None:
        names = latest_names(transaction, "", _NAMES_COMPARED)
        raise SessionNotFound(name, tuple(difflib.get_close_matches(name, names)))
    if row.archived and not archived:
        raise SessionArchived(name)
    return read(Session, row)


def last_used(transaction: Transaction) -> Session | None:
    """Return the session that was used last, archived ones left out."""
    latest = (
        select(SessionRow)
        .where(~col(SessionRow.archived))
        .order_by(desc(col(SessionRow.last_used)), desc(col(SessionRow.id)))
        .limit(1)
    )
    row = transaction.exec(latest).one_or_none()
    return None if row is None else read(Session, row)


def latest_names(transaction: Transaction, prefix: str, limit: int) -> list[str]:
    """Return the names that begin with ``prefix``, last used first, archived ones left out."""
    checked_int(limit, "the limit", least=0)
    # No name has such characters, and not every database takes them in a comparison.
    if any(unicodedata.category(each) in {"Cc", "Cs"} for each in prefix):
        return []
    begins = func.substr(SessionRow.name, 1, len(prefix)) == prefix
    query = select(SessionRow.name).where(begins, ~col(SessionRow.archived))
    names = transaction.exec(query.order_by(desc(col(SessionRow.last_used))).limit(limit))
    # A damaged name can be anything; it completes nothing.
    return [name for name in names if isinstance(name, str)]  # pyright: ignore[reportUnnecessaryIsInstance]


def rename(transaction: Transaction, session_id: int, name: str) -> Session:
    """Give the session another name."""
    checked_name(name)
    row = mutations.locked_session(transaction, session_id)
    mutations.rename_session(transaction, row, name)
    return mutations.after(transaction, row)


def archive(transaction: Transaction, session_id: int, *, archived: bool) -> Session:
    """Take the session out of the list, or put it back."""
    row = mutations.locked_session(transaction, session_id)
    row.archived = archived
    return mutations.after(transaction, row)


def purge(transaction: Transaction, session_id: int) -> None:
    """Delete an archived session permanently."""
    row = mutations.locked_session(transaction, session_id)
    if not row.archived:
        raise InvalidValue(f"session {row.name!r} is not archived: archive it before it is purged")
    purge_session(transaction, row)


def update_settings(
    transaction: Transaction,
    session_id: int,
    *,
    settings: Mapping[str, object] | None,
    seed: int | None,
) -> Session:
    """Set the given settings, leaving the others, and the seed if given."""
    changed = {} if settings is None else checked_json(settings, "the settings")
    new_seed = None if seed is None else checked_int(seed, "the seed")
    row = mutations.locked_session(transaction, session_id)
    before = read(Session, row)
    row.settings = {**before.settings, **changed}
    if new_seed is not None:
        row.seed = new_seed
    return mutations.after(transaction, row)
