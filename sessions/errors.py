"""The errors of the store, one class for each situation.

Each message says what happened, quotes the value, and says what to do next.
"""

from __future__ import annotations

from shlex import quote


class StoreError(Exception):
    """Base class of all errors that this package raises on purpose."""


class InvalidName(StoreError, ValueError):  # noqa: N818 - a name, not a mistake of the program
    """A session name breaks the rules for names."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{_short(name)} cannot be a session name: {reason}")
        self.name = name
        self.reason = reason


class InvalidValue(StoreError, ValueError):  # noqa: N818
    """A value cannot be stored so that it comes back as it was; nothing was written."""


class SessionExists(StoreError):  # noqa: N818
    """The name belongs to a session already, perhaps an archived one."""

    def __init__(self, name: str, *, archived: bool = False) -> None:
        what, then = ("an archived", "restore it") if archived else ("a", "resume it")
        super().__init__(f"there is already {what} session named {name!r}: {then}, or choose another name")
        self.name = name
        self.archived = archived


class SessionArchived(StoreError):  # noqa: N818
    """The session was archived, and the caller asked for one that is not."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name!r} is archived: niels-chat restore {quote(name)}, or choose another name")
        self.name = name


class SessionNotFound(StoreError, LookupError):  # noqa: N818
    """No session has this name; ``nearest`` holds similar names."""

    def __init__(self, name: str, nearest: tuple[str, ...] = ()) -> None:
        hint = f"; did you mean {' or '.join(repr(each) for each in nearest)}?" if nearest else ""
        super().__init__(f"there is no session named {_short(name)}{hint}")
        self.name = name
        self.nearest = nearest


class RecordNotFound(StoreError, LookupError):  # noqa: N818
    """An id names no session, message, generation or checkpoint of this store."""

    def __init__(self, kind: str, record_id: int) -> None:
        super().__init__(f"this store has no {kind} with id {record_id!r}: read the session again")
        self.kind = kind
        self.record_id = record_id


class HeadMoved(StoreError):  # noqa: N818
    """The session has another head than the caller last read; nothing was written."""

    def __init__(self, session: str, *, expected: int | None, found: int | None, what: str) -> None:
        super().__init__(
            f"session {session!r} was changed by another program: expected its last message to be "
            f"{_message(expected)}, found {_message(found)} ({what}); read the session again, then repeat"
        )
        self.session = session
        self.expected = expected
        self.found = found


class ReplyPending(StoreError):  # noqa: N818
    """A reply of this session is being generated elsewhere, or was interrupted; nothing was written."""

    def __init__(self, session: str, *, generation_id: int, since: str) -> None:
        super().__init__(
            f"session {session!r} waits for the reply started at {since} (generation {generation_id}): "
            "another program is generating it, or it was interrupted; finish it or give it up first"
        )
        self.session = session
        self.generation_id = generation_id


class GenerationFinished(StoreError):  # noqa: N818
    """The generation already has its outcome; an outcome is recorded once."""

    def __init__(self, generation_id: int, status: str) -> None:
        super().__init__(
            f"generation {generation_id} is already {status!r}, and an outcome is recorded once: "
            "read the session again to see what is stored"
        )
        self.generation_id = generation_id
        self.status = status


class StoreUnavailable(StoreError):  # noqa: N818
    """The store cannot be opened, read or written at the moment."""


class StoreNotFound(StoreUnavailable):
    """There is no store at this place, and the caller does not want a new one."""


class StoreLocked(StoreUnavailable):
    """Another program held the write lock for longer than the timeout."""


class StoreReadOnly(StoreUnavailable):
    """The file or its folder does not permit writing."""


class StoreFull(StoreUnavailable):
    """The disk, or a quota, leaves no room."""


class StoreClosed(StoreUnavailable):
    """The store was closed before this call."""


class NotAStore(StoreError):  # noqa: N818
    """The file or database is there, but it is not a session store; it was left untouched."""


class StoreDamaged(StoreError):  # noqa: N818
    """The file is a session store with damaged contents; it was left untouched."""


class SchemaTooNew(StoreError):  # noqa: N818
    """The store was written by a newer version of this program; it was left untouched."""

    def __init__(self, place: str, *, found: str, known: str) -> None:
        super().__init__(
            f"the session store {place} has schema {found!r}, and this program knows up to {known!r}: "
            "upgrade niels-gpt, or give another store"
        )
        self.found = found
        self.known = known


def _short(name: str) -> str:
    return repr(name) if len(name) <= 80 else f"{name[:77]!r}... ({len(name)} characters)"


def _message(message_id: int | None) -> str:
    return "none" if message_id is None else f"message {message_id}"
