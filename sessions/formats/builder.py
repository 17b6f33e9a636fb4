"""Build session archives from other programs' conversations: a tree of messages with our own digests.

Token ids, generations and checkpoints stay empty. Such a session can be read, searched and continued, but not
replayed.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from sessions.digest import message_digest
from sessions.formats.field_validation import Fields
from sessions.formats.json_reader import Source
from sessions.integrity import verified
from sessions.records import Message, Role, Session, SessionArchive
from sessions.validation import NAME_LIMIT

_SEED = 42  # the default of a session started in the chat


@dataclass(frozen=True, kw_only=True)
class Draft:
    """One message to import; ``parent`` is the ``key`` of the message that it answers."""

    key: Hashable
    parent: Hashable | None
    role: Role
    content: str
    created: datetime


def session_of(
    name: str, drafts: Sequence[Draft], *, head: Hashable | None, created: datetime
) -> SessionArchive:
    """Return a session whose messages are the drafts, parents before their replies.

    ``head`` is the key of the message that it continues from; None for a session without messages.
    """
    made: dict[Hashable, Message] = {}
    for number, draft in enumerate(drafts, start=1):
        parent = None if draft.parent is None else made[draft.parent]
        digest = message_digest(
            parent=None if parent is None else parent.digest,
            role=draft.role,
            content=draft.content,
            status="complete",
            token_ids=None,
        )
        made[draft.key] = Message(
            id=number,
            session_id=1,
            parent_id=None if parent is None else parent.id,
            position=0 if parent is None else parent.position + 1,
            role=draft.role,
            content=draft.content,
            token_ids=None,
            status="complete",
            digest=digest,
            created=draft.created,
        )
    messages = tuple(made.values())
    head_id = None if head is None else made[head].id
    return SessionArchive(
        session=Session(
            id=1,
            name=name,
            seed=_SEED,
            settings={},
            head_id=head_id,
            forked_from=None,
            forked_at=None,
            created=created,
            last_used=created,
            archived=False,
        ),
        messages=messages,
        generations=(),
        checkpoints=(),
        digest=verified(head_id, messages, (), ()).digest,
    )


def in_a_row(
    name: str, said: Sequence[tuple[Role, str]], *, created: datetime, moments: Sequence[datetime] = ()
) -> SessionArchive:
    """Return a session of consecutive messages; ``moments`` are their times, if known."""
    drafts = [
        Draft(
            key=number,
            parent=number - 1 if number else None,
            role=role,
            content=content,
            created=moments[number] if moments else created,
        )
        for number, (role, content) in enumerate(said)
    ]
    return session_of(name, drafts, head=len(drafts) - 1 if drafts else None, created=created)


def one_for_each_record(
    source: Source, make: Callable[[Fields, str], SessionArchive | None]
) -> Iterator[SessionArchive]:
    """Yield the session of each record of a file.

    Args:
        source: the file.
        make: builds the session from a record and a name for it, or returns None if there is nothing in it.

    Raises:
        ImportRefused: for a record that cannot be read, or one more than a file may have.
    """
    for number, record in enumerate(source.records(), start=1):
        if number > source.limits.sessions:
            record.refuse("", f"is one too many: expected at most {source.limits.sessions:,} sessions")
        archive = source.attempt(partial(make, record, f"{source.path.stem}-{number}"))
        if archive is not None:
            yield archive


def path_of(archive: SessionArchive) -> list[Message]:
    """Return the messages from the root to the head, oldest first."""
    by_id = {message.id: message for message in archive.messages}
    path: list[Message] = []
    at = archive.session.head_id
    while at is not None:
        path.append(by_id[at])
        at = by_id[at].parent_id
    return path[::-1]


def room_for_message(fields: Fields, count: int) -> None:
    """Refuse a message beyond the limit of a session."""
    if count >= fields.limits.messages:
        fields.refuse(
            "", f"is message {count + 1:,} of its session: expected at most {fields.limits.messages:,}"
        )


def clean_name(title: str | None, fallback: str) -> str:
    """Return the valid session name that is closest to a foreign title."""
    kept = (each if _can_be_in_a_name(each) else " " for each in title or "")
    name = " ".join("".join(kept).split())
    # Leave room for a suffix that makes the name unique.
    return name[: NAME_LIMIT - 8].strip() or fallback


def _can_be_in_a_name(character: str) -> bool:
    # Remove controls, direction marks, surrogates, line separators; keep joiners for scripts and emoji.
    category = unicodedata.category(character)
    return character in "\u200c\u200d" or not (category.startswith("C") or category in {"Zl", "Zp"})
