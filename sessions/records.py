"""What callers get: frozen values, complete when they arrive, valid after the store is closed.

Mappings are plain dictionaries of JSON values, made anew for each record. Times are aware, in UTC. Knows
nothing about tables or SQL.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

Role = Literal["system", "user", "assistant"]
ReplyStatus = Literal["complete", "cancelled"]
GenerationStatus = Literal["pending", "complete", "cancelled", "failed"]


@dataclass(frozen=True, kw_only=True)
class Session:
    """A named head in the tree of messages. ``head_id`` is None while nothing was said."""

    id: int
    name: str
    seed: int
    settings: Mapping[str, object]
    head_id: int | None
    forked_from: int | None
    created: datetime
    last_used: datetime
    archived: bool


@dataclass(frozen=True, kw_only=True)
class SessionSummary:
    """One line of the list of sessions. Counts are over everything stored, other branches included."""

    id: int
    name: str
    created: datetime
    last_used: datetime
    archived: bool
    messages: int
    turns: int
    first_words: str


@dataclass(frozen=True, kw_only=True)
class Message:
    """One immutable message; ``position`` counts from 0 at the root of its path.

    ``token_ids`` are the sampled ids of a reply, None for what people wrote. ``digest`` is the hex SHA-256
    of ``sessions.digest``, chained over all its ancestors.
    """

    id: int
    session_id: int
    parent_id: int | None
    position: int
    role: Role
    content: str
    token_ids: tuple[int, ...] | None
    status: ReplyStatus
    digest: str
    created: datetime


@dataclass(frozen=True, kw_only=True)
class NewGeneration:
    """What a reply is asked for with: everything that decides it, and ``environment``, which explains it."""

    checkpoint_id: int
    seed: int
    attempt: int
    sampling: Mapping[str, object]
    max_new_tokens: int
    prompt_hash: str
    trimmed_turns: int
    environment: Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class Generation:
    """A reply as it was asked for, and its outcome once there is one.

    ``receipt`` is what the decoder reported (token counts, logits hash, path). ``reply_id`` is set when the
    status is complete or cancelled, ``error`` when it is failed, ``finished`` for all three.
    """

    id: int
    session_id: int
    user_message_id: int
    reply_id: int | None
    checkpoint_id: int
    seed: int
    attempt: int
    sampling: Mapping[str, object]
    max_new_tokens: int
    prompt_hash: str
    trimmed_turns: int
    environment: Mapping[str, object]
    status: GenerationStatus
    finish_reason: str | None
    receipt: Mapping[str, object] | None
    timings: Mapping[str, object] | None
    error: str | None
    created: datetime
    finished: datetime | None


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A stored user message and the pending generation of its reply, with the session as it is then."""

    session: Session
    user: Message
    generation: Generation
