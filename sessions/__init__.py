"""The session store: conversations as immutable message trees, kept durably in one SQLite file.

``open_store()`` returns a ``Store``. Its methods return frozen records and raise ``StoreError``. Any
SQLAlchemy URL can replace the file. The store itself is imported when it is first used: it is heavy, and a
program that completes a name or prints an error need not wait for it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from sessions.errors import (
    GenerationFinished,
    HeadMoved,
    InvalidName,
    InvalidValue,
    NotAStore,
    RecordNotFound,
    ReplyPending,
    SchemaTooNew,
    SessionArchived,
    SessionExists,
    SessionNotFound,
    StoreClosed,
    StoreDamaged,
    StoreError,
    StoreFull,
    StoreLocked,
    StoreNotFound,
    StoreReadOnly,
    StoreUnavailable,
)
from sessions.records import (
    Checkpoint,
    Fault,
    Generation,
    Health,
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

if TYPE_CHECKING:
    from sessions.recovery import Recovery, recover_store
    from sessions.store import Store, open_store

_LAZY = {
    "Recovery": "sessions.recovery",
    "recover_store": "sessions.recovery",
    "Store": "sessions.store",
    "open_store": "sessions.store",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


__all__ = [
    "Checkpoint",
    "Fault",
    "Generation",
    "GenerationFinished",
    "HeadMoved",
    "Health",
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
    "SessionArchived",
    "SessionExists",
    "SessionNotFound",
    "SessionSummary",
    "Store",
    "StoreClosed",
    "StoreDamaged",
    "StoreError",
    "StoreFull",
    "StoreLocked",
    "StoreNotFound",
    "StoreReadOnly",
    "StoreUnavailable",
    "Turn",
    "Verification",
    "open_store",
    "recover_store",
]
