"""The session store: conversations as immutable message trees, kept durably in one SQLite file.

``open_store()`` gives a ``Store``; what comes out of it are frozen records, what goes wrong is a
``StoreError``. Any SQLAlchemy URL can stand in place of the file. The package knows no model, no event
loop and no terminal, and importing it never imports Alembic.
"""

from sessions.errors import (
    GenerationFinished,
    HeadMoved,
    InvalidName,
    InvalidValue,
    NotAStore,
    RecordNotFound,
    ReplyPending,
    SchemaTooNew,
    SessionExists,
    SessionNotFound,
    StoreClosed,
    StoreDamaged,
    StoreError,
    StoreFull,
    StoreLocked,
    StoreReadOnly,
    StoreUnavailable,
)
from sessions.records import (
    Checkpoint,
    Fault,
    Generation,
    Message,
    NewGeneration,
    RecordedTurn,
    SearchHit,
    Session,
    SessionArchive,
    SessionSummary,
    Turn,
    Verification,
)
from sessions.recovery import Recovery, recover_store
from sessions.store import Store, open_store

__all__ = [
    "Checkpoint",
    "Fault",
    "Generation",
    "GenerationFinished",
    "HeadMoved",
    "InvalidName",
    "InvalidValue",
    "Message",
    "NewGeneration",
    "NotAStore",
    "RecordNotFound",
    "RecordedTurn",
    "Recovery",
    "ReplyPending",
    "SchemaTooNew",
    "SearchHit",
    "Session",
    "SessionArchive",
    "SessionExists",
    "SessionNotFound",
    "SessionSummary",
    "Store",
    "StoreClosed",
    "StoreDamaged",
    "StoreError",
    "StoreFull",
    "StoreLocked",
    "StoreReadOnly",
    "StoreUnavailable",
    "Turn",
    "Verification",
    "open_store",
    "recover_store",
]
