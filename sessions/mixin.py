"""What the parts of the store share: one database, and rows frozen once they are written."""

from __future__ import annotations

from sqlmodel import Session as Transaction

from sessions import queries
from sessions.database import Database
from sessions.records import Session, Turn
from sessions.tables import GenerationRow, MessageRow, SessionRow


class StorePart:
    """Base of the classes that ``Store`` is put together from; each covers one concern."""

    def __init__(self, database: Database) -> None:
        self._database = database


def after(transaction: Transaction, session: SessionRow) -> Session:
    """Write what was changed, and return the session as it is then."""
    transaction.flush()
    return queries.session_record(session)


def turn_record(session: SessionRow, user: MessageRow, generation: GenerationRow) -> Turn:
    """Freeze a turn that waits for its reply."""
    return Turn(
        session=queries.session_record(session),
        user=queries.message_record(user),
        generation=queries.generation_record(generation),
    )
