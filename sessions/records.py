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
    """A named head in the tree of messages. ``head_id`` is None while nothing was said.

    A fork names the session that it came from and ``forked_at``, the message that they part after.
    """

    id: int
    name: str
    seed: int
    settings: Mapping[str, object]
    head_id: int | None
    forked_from: int | None
    forked_at: int | None
    created: datetime
    last_used: datetime
    archived: bool


@dataclass(frozen=True, kw_only=True)
class SessionSummary:
    """One line of the list of sessions.

    Counts are over everything that the session has stored, other branches included, and for a fork over
    what it shares on its path. ``checkpoint`` is the path of the one that was used last.
    """

    id: int
    name: str
    created: datetime
    last_used: datetime
    archived: bool
    messages: int
    turns: int
    first_words: str
    checkpoint: str | None


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
class Checkpoint:
    """A checkpoint that replies were made with: its fingerprint and that by part, and where it lay last."""

    id: int
    fingerprint: str
    parts: Mapping[str, str]
    config: Mapping[str, object]
    step: int | None
    path: str
    created: datetime


@dataclass(frozen=True, kw_only=True)
class NewGeneration:
    """What a reply is asked for with: everything that decides it, and ``environment``, which explains it.

    ``forced_ids`` are the reply's first tokens where they were taken instead of drawn.
    """

    checkpoint_id: int
    seed: int
    attempt: int
    sampling: Mapping[str, object]
    max_new_tokens: int
    prompt_hash: str
    trimmed_turns: int
    environment: Mapping[str, object]
    forced_ids: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Generation:
    """A reply as it was asked for, and its outcome once there is one.

    ``receipt`` is what the decoder reported (token counts, logits hash, path). ``reply_id`` is set when the
    status is complete or cancelled, ``error`` when it is failed, ``finished`` for all three. ``digest`` is
    the hex SHA-256 of ``sessions.digest`` over all that decided the reply; None without a reply, and in
    rows from before there was one.
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
    forced_ids: tuple[int, ...]
    status: GenerationStatus
    finish_reason: str | None
    receipt: Mapping[str, object] | None
    timings: Mapping[str, object] | None
    error: str | None
    digest: str | None
    created: datetime
    finished: datetime | None


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A stored user message and the pending generation of its reply, with the session as it is then."""

    session: Session
    user: Message
    generation: Generation


@dataclass(frozen=True, kw_only=True)
class RecordedTurn:
    """A user's message, a reply to it, and how that reply came about."""

    user: Message
    reply: Message
    generation: Generation


@dataclass(frozen=True, kw_only=True)
class SearchHit:
    """A message that was found; ``snippet`` is one line of it around the first word that was found."""

    session_name: str
    session_id: int
    message_id: int
    position: int
    role: Role
    snippet: str
    created: datetime


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One digest or place that does not hold: ``where`` in words, and what was expected and found there."""

    where: str
    message_id: int | None
    generation_id: int | None
    expected: str
    got: str


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What ``Store.verify`` found: the session's digest, the faults, and how much was looked at."""

    digest: str
    faults: tuple[Fault, ...]
    messages: int
    generations: int


@dataclass(frozen=True, kw_only=True)
class SessionArchive:
    """One session whole: every message of its tree, how each reply came about, and by which checkpoints.

    Ids are those of the store that it comes from; within the archive they say what belongs together, and
    an import gives new ones. Messages come before their replies. ``digest`` is ``Verification.digest``.
    """

    session: Session
    messages: tuple[Message, ...]
    generations: tuple[Generation, ...]
    checkpoints: tuple[Checkpoint, ...]
    digest: str
