"""Records: the frozen values that callers get, complete when they arrive and valid after the store is closed.

Mappings are plain dictionaries of JSON values, made for each record. Times are aware, in UTC. The annotation
of every field of a stored record names its kind (``sessions.fields``).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal, get_args

from sessions.fields import (
    Count,
    Digest,
    ForcedIds,
    FreeText,
    Integer,
    Json,
    Label,
    Moment,
    Parts,
    TokenIds,
    Truth,
    one_of,
)

Role = Literal["system", "user", "assistant"]
ReplyStatus = Literal["complete", "cancelled"]
GenerationStatus = Literal["pending", "complete", "cancelled", "failed"]


@dataclass(frozen=True, kw_only=True)
class Session:
    """A named head in the tree of messages. ``head_id`` is None while the session has no message.

    A fork names the session that it came from and ``forked_at``, the last message that both share.
    """

    id: Integer
    name: FreeText
    seed: Integer
    settings: Json
    head_id: Integer | None
    forked_from: Integer | None
    forked_at: Integer | None
    created: Moment
    last_used: Moment
    archived: Truth


@dataclass(frozen=True, kw_only=True)
class SessionSummary:
    """One line of the list of sessions.

    ``messages`` counts everything that the session has stored, other branches included, and for a fork what
    it shares on its path. ``turns`` counts the user's messages on the path to the head. ``checkpoint`` is the
    path of the checkpoint of its latest generation.
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

    ``token_ids`` are the sampled ids of a reply, None for other messages. ``digest`` is the hex SHA-256 of
    ``sessions.digest``, chained over all its ancestors.
    """

    id: Integer
    session_id: Integer
    parent_id: Integer | None
    position: Count
    role: Annotated[Role, one_of(get_args(Role))]
    content: FreeText
    token_ids: TokenIds | None
    status: Annotated[ReplyStatus, one_of(get_args(ReplyStatus))]
    digest: Digest
    created: Moment


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint that replies were made with: its fingerprint, whole and by part, and its latest path."""

    id: Integer
    fingerprint: Label
    parts: Parts
    config: Json
    step: Integer | None
    path: FreeText
    created: Moment


@dataclass(frozen=True, kw_only=True)
class NewGeneration:
    """The request for a reply: everything that decides it, and ``environment``, which explains it.

    ``forced_ids`` are the reply's first tokens where they were given instead of drawn. ``checkpoint_path``
    is where the checkpoint lies; None takes the latest path that the store knows for it.
    """

    checkpoint_id: Integer
    seed: Integer
    attempt: Count
    sampling: Json
    max_new_tokens: Count
    prompt_hash: Label
    trimmed_turns: Count
    environment: Json
    forced_ids: ForcedIds = ()
    checkpoint_path: FreeText | None = None


@dataclass(frozen=True, kw_only=True)
class Generation(NewGeneration):
    """The request for a reply, and its outcome once there is one.

    ``receipt`` is the decoder's report (token counts, logits hash, path). ``reply_id`` is set when the
    status is complete or cancelled, ``error`` when it is failed, ``finished`` for all three. ``digest`` is
    the hex SHA-256 of ``sessions.digest`` over all that decided the reply; None without a reply, and in
    rows that are older than the column.
    """

    id: Integer
    session_id: Integer
    user_message_id: Integer
    reply_id: Integer | None
    status: Annotated[GenerationStatus, one_of(get_args(GenerationStatus))]
    finish_reason: Label | None
    receipt: Json | None
    timings: Json | None
    error: FreeText | None
    digest: Digest | None
    created: Moment
    finished: Moment | None


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A stored user message and the pending generation of its reply, with the session as it is then."""

    session: Session
    user: Message
    generation: Generation


@dataclass(frozen=True, kw_only=True)
class RecordedTurn:
    """A user message, a reply to it, and the generation that made the reply."""

    user: Message
    reply: Message
    generation: Generation


@dataclass(frozen=True, kw_only=True)
class SearchHit:
    """A message found by a search; ``snippet`` is one line of it around the first word found."""

    session_name: str
    session_id: int
    message_id: int
    position: int
    role: Role
    snippet: str
    created: datetime


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A stored value that does not verify: ``where`` in words, and what was expected and found there."""

    where: str
    message_id: int | None
    generation_id: int | None
    expected: str
    got: str


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The result of ``Store.verify``: the session's digest, the faults, and how many rows were checked."""

    digest: str
    faults: tuple[Fault, ...]
    messages: int
    generations: int


@dataclass(frozen=True, kw_only=True)
class Health:
    """The result of ``Store.examine``: what is wrong, one line each, and how much was looked at.

    ``without_checksum`` counts rows from before schema 0003, whose names, times and settings nothing guards.
    """

    faults: tuple[str, ...]
    sessions: int
    without_checksum: int


@dataclass(frozen=True, kw_only=True)
class SessionArchive:
    """One whole session: every message of its tree, and the generations and checkpoints of its replies.

    Ids are those of the store that it comes from; within the archive they say what belongs together, and
    an import gives new ones. Messages come before their replies. ``digest`` is ``Verification.digest``.
    """

    session: Session
    messages: tuple[Message, ...]
    generations: tuple[Generation, ...]
    checkpoints: tuple[Checkpoint, ...]
    digest: str
