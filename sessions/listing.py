"""List sessions: one line each, a page at a time, last used first.

The cost of a page depends on its own sessions, not on how many others are stored: an index selects the page
first, and only then is anything counted. Portable SQL only.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Subquery, case, desc, func
from sqlmodel import Session as Transaction
from sqlmodel import col, select
from sqlmodel.sql.expression import Select

from sessions.column_types import FaithfulText
from sessions.fields import read
from sessions.queries import shortened
from sessions.records import Session, SessionSummary
from sessions.tables import CheckpointRow, GenerationRow, MessageRow, SessionRow

_ORDER = desc(col(SessionRow.last_used)), desc(col(SessionRow.id))
_WORDS_READ = 160  # characters of the first user message that are read: twice as many as are shown
_Line = tuple[SessionRow, int, str | None, str | None]
_Path = tuple[int, int, str | None]


def page(transaction: Transaction, *, archived: bool, limit: int | None, offset: int) -> list[SessionSummary]:
    """Return a page of the list, last used first; archived sessions only if ``archived`` is set."""
    chosen = select(SessionRow.id).order_by(*_ORDER).limit(limit).offset(offset)
    if not archived:
        chosen = chosen.where(~col(SessionRow.archived))
    rows: Sequence[_Line] = transaction.exec(_lines(chosen.subquery("chosen"))).all()
    paths = _paths(transaction, chosen.subquery("chosen"))
    return [_summary(read(Session, row[0]), row, paths.get(row[0].id, (0, 0, None))) for row in rows]


def _summary(session: Session, line: _Line, on_path: _Path) -> SessionSummary:
    _, messages, words, path = line
    turns, shared_messages, shared_words = on_path
    return SessionSummary(
        id=session.id,
        name=session.name,
        created=session.created,
        last_used=session.last_used,
        archived=session.archived,
        messages=messages + shared_messages,
        turns=turns,
        first_words=shortened(_text(shared_words) or _text(words)),
        checkpoint=_text(path) or None,
    )


def _text(value: str | None) -> str:
    # A damaged cell can hold anything; the list shows nothing for it, and a check names the row.
    return value if isinstance(value, str) else ""


def _lines(chosen: Subquery) -> Select[SessionRow, int, str | None, str | None]:
    of_session = col(MessageRow.session_id) == col(SessionRow.id)
    of_users = of_session & (col(MessageRow.role) == "user")
    messages = select(func.count()).select_from(MessageRow).where(of_session)
    words = select(_start_of_content()).where(of_users).order_by(col(MessageRow.id)).limit(1)
    checkpoint = (
        select(func.coalesce(GenerationRow.checkpoint_path, CheckpointRow.path, type_=FaithfulText))
        .select_from(CheckpointRow)
        .join(GenerationRow, col(GenerationRow.checkpoint_id) == col(CheckpointRow.id))
        .where(col(GenerationRow.session_id) == col(SessionRow.id))
        .order_by(desc(col(GenerationRow.id)))
        .limit(1)
    )
    columns = [each.correlate(SessionRow).scalar_subquery() for each in (messages, words, checkpoint)]
    lines: Select[SessionRow, int, str | None, str | None] = Select(SessionRow, *columns)
    return lines.join(chosen, col(SessionRow.id) == chosen.c.id).order_by(*_ORDER)


def _start_of_content() -> ColumnElement[str]:
    return func.substr(MessageRow.content, 1, _WORDS_READ, type_=FaithfulText)


def _paths(transaction: Transaction, chosen: Subquery) -> dict[int, _Path]:
    """Return for each session that has a path its turns, and what of it is shared with other sessions.

    That is the number of messages, and the start of the first turn.
    """
    path = (
        select(SessionRow.id, SessionRow.head_id)
        .join(chosen, col(SessionRow.id) == chosen.c.id)
        .cte("path", recursive=True)
    )
    path = path.union(
        select(path.c.id, MessageRow.parent_id).join(MessageRow, col(MessageRow.id) == path.c.head_id)
    )
    is_turn = col(MessageRow.role) == "user"
    is_shared = col(MessageRow.session_id) != path.c.id
    counted = (
        select(
            path.c.id,
            func.count(case((is_turn, 1))).label("turns"),
            func.count(case((is_shared, 1))).label("shared"),
            func.min(case((is_turn & is_shared, MessageRow.id))).label("first_turn"),
        )
        .join(MessageRow, col(MessageRow.id) == path.c.head_id)
        .group_by(path.c.id)
        .subquery("counted")
    )
    found = transaction.exec(
        select(counted.c.id, counted.c.turns, counted.c.shared, _start_of_content()).join(
            MessageRow, col(MessageRow.id) == counted.c.first_turn, isouter=True
        )
    )
    return {session_id: (turns, shared, words) for session_id, turns, shared, words in found}
