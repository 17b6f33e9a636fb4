"""The sessions as such: made, found, listed, searched, renamed, archived and purged.

Nothing here goes into a conversation but a new session's system prompt.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Mapping

from sqlalchemy import desc, func
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session as Transaction
from sqlmodel import col, select

from sessions import listing, mutations, purge, queries, search
from sessions.errors import InvalidValue, SessionExists, SessionNotFound
from sessions.mixin import StorePart, after
from sessions.records import SearchHit, Session, SessionSummary
from sessions.tables import SessionRow
from sessions.validation import checked_int, checked_json, checked_name, checked_text

_NAMES_COMPARED = 1000  # how many names are compared with one that was not found


class Catalogue(StorePart):
    """Sessions by name, and the list of them."""

    def create_session(
        self, name: str, *, seed: int, system: str | None, settings: Mapping[str, object]
    ) -> Session:
        """Make a session; ``system``, if given, becomes its root message.

        Raises InvalidName, InvalidValue, or SessionExists (archived sessions keep their names).
        """
        row = mutations.new_session(name, seed=seed, settings=settings)
        if system is not None:
            checked_text(system, "the system prompt")
        with self._database.writing() as transaction:
            mutations.add_session(transaction, row)
            mutations.start_tree(transaction, row, system)
            return after(transaction, row)

    def session(self, name: str) -> Session:
        """Return the session of this name; raise SessionNotFound with the nearest names."""
        checked_name(name)
        with self._database.reading() as transaction:
            row = transaction.exec(select(SessionRow).where(SessionRow.name == name)).one_or_none()
            if row is not None:
                return queries.session_record(row)
            names = _latest_names(transaction, "", _NAMES_COMPARED)
        raise SessionNotFound(name, tuple(difflib.get_close_matches(name, names)))

    def session_by_id(self, session_id: int) -> Session:
        """Return the session with this id; raise RecordNotFound."""
        with self._database.reading() as transaction:
            return queries.session_record(queries.session_row(transaction, session_id))

    def sessions(
        self, *, archived: bool = False, limit: int | None = None, offset: int = 0
    ) -> list[SessionSummary]:
        """Return a page of the sessions, last used first; archived ones too if asked for.

        Raises InvalidValue for a negative limit or offset.
        """
        if limit is not None:
            checked_int(limit, "the limit", least=0)
        checked_int(offset, "the offset", least=0)
        with self._database.reading() as transaction:
            return listing.page(transaction, archived=archived, limit=limit, offset=offset)

    def last_used(self) -> Session | None:
        """Return the session that was used last, archived ones left out; None if there is none."""
        latest = (
            select(SessionRow)
            .where(~col(SessionRow.archived))
            .order_by(desc(col(SessionRow.last_used)), desc(col(SessionRow.id)))
            .limit(1)
        )
        with self._database.reading() as transaction:
            row = transaction.exec(latest).one_or_none()
            return None if row is None else queries.session_record(row)

    def names(self, prefix: str = "", limit: int = 50) -> list[str]:
        """Return the names that begin with ``prefix``, last used first, archived ones left out."""
        checked_int(limit, "the limit", least=0)
        # No name has such characters, and not every database takes them in a comparison.
        if any(unicodedata.category(each) in {"Cc", "Cs"} for each in prefix):
            return []
        with self._database.reading() as transaction:
            return _latest_names(transaction, prefix, limit)

    def search(self, text: str, *, limit: int = 20, offset: int = 0) -> list[SearchHit]:
        """Return the messages that have all words of ``text``, newest first; archived sessions' left out.

        Any text is a search, and none an error. Raises InvalidValue for a negative limit or offset.
        """
        checked_int(limit, "the limit", least=0)
        checked_int(offset, "the offset", least=0)
        with self._database.reading() as transaction:
            return search.hits(transaction, text, limit=limit, offset=offset)

    def rename(self, session_id: int, name: str) -> Session:
        """Give the session another name. Raises InvalidName, SessionExists, RecordNotFound."""
        checked_name(name)
        with self._database.writing() as transaction:
            row = mutations.locked_session(transaction, session_id)
            row.name = name
            try:
                transaction.flush()
            except IntegrityError as error:
                raise SessionExists(name) from error
            return after(transaction, row)

    def archive(self, session_id: int, archived: bool = True) -> Session:  # noqa: FBT001, FBT002 - as called
        """Take the session out of the list, or put it back; its name stays taken, nothing is lost."""
        with self._database.writing() as transaction:
            row = mutations.locked_session(transaction, session_id)
            row.archived = archived
            return after(transaction, row)

    def purge(self, session_id: int) -> None:
        """Delete an archived session for ever; what forks of it still use becomes theirs.

        Raises InvalidValue for a session that is not archived, RecordNotFound.
        """
        with self._database.writing() as transaction:
            row = mutations.locked_session(transaction, session_id)
            if not row.archived:
                raise InvalidValue(f"session {row.name!r} is not archived: archive it before it is purged")
            purge.purge(transaction, row)

    def update_settings(
        self, session_id: int, *, settings: Mapping[str, object] | None = None, seed: int | None = None
    ) -> Session:
        """Set the given settings, leaving the others, and the seed if given; the head stays."""
        changed = {} if settings is None else checked_json(settings, "the settings")
        new_seed = None if seed is None else checked_int(seed, "the seed")
        with self._database.writing() as transaction:
            row = mutations.locked_session(transaction, session_id)
            row.settings = {**row.settings, **changed}
            if new_seed is not None:
                row.seed = new_seed
            return after(transaction, row)


def _latest_names(transaction: Transaction, prefix: str, limit: int) -> list[str]:
    begins = func.substr(SessionRow.name, 1, len(prefix)) == prefix
    query = select(SessionRow.name).where(begins, ~col(SessionRow.archived))
    return list(transaction.exec(query.order_by(desc(col(SessionRow.last_used))).limit(limit)))
