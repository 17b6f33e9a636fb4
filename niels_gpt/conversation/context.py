"""Fit a conversation into the model's context.

The prompt is the system prompt, the newest whole turns and the new message; the oldest turns go first and
the system prompt never.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from niels_gpt.conversation.errors import MessageTooLong

CONTEXT_RULE = 1
"""Raised when the same path of messages would give another prompt; recorded with every reply.

1: the last system prompt, whole turns from the newest on, empty replies and unanswered messages left out.
"""


class PromptTemplate(Protocol):
    """The one thing asked of a chat template here."""

    def prompt_ids(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Return the token ids of a prompt that ends where the reply begins."""
        ...


class Said(Protocol):
    """A message of a path, oldest first."""

    @property
    def role(self) -> str:
        """Who said it: "system", "user" or "assistant"."""
        ...

    @property
    def content(self) -> str:
        """What was said."""
        ...

    @property
    def status(self) -> str:
        """Whether it was said to its end: "complete" or "cancelled"."""
        ...


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A user's message and the reply to it, as texts."""

    user: str
    reply: str


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A prompt that leaves room for a reply, and how many old turns it had to leave out."""

    prompt_ids: tuple[int, ...]
    trimmed_turns: int


def system_of(path: Sequence[Said]) -> str | None:
    """Return the system prompt that counts after a path: its last; None if there is none, or it is empty."""
    prompts = [message.content for message in path if message.role == "system"]
    return (prompts[-1] or None) if prompts else None


def exchanges_of(path: Sequence[Said], *, keep_stopped: bool = True) -> list[Exchange]:
    """Return the answered turns of a path. An empty reply says nothing: its turn is left out.

    So is that of a reply that was stopped, unless `keep_stopped`.
    """
    found: list[Exchange] = []
    asked: str | None = None
    for message in path:
        if message.role == "user":
            asked = message.content
        elif message.role == "assistant" and asked is not None:
            if message.content.strip() and (keep_stopped or message.status != "cancelled"):
                found.append(Exchange(user=asked, reply=message.content))
            asked = None
    return found


def fit(
    *,
    template: PromptTemplate,
    context_length: int,
    max_new_tokens: int,
    system: str | None,
    exchanges: Sequence[Exchange],
    message: str,
) -> Fitted:
    """Return the longest prompt of whole turns that leaves room for a reply.

    `context_length` (T) and `max_new_tokens` count tokens. Old turns leave a quarter of the context free
    for the reply, or less if the reply may not be that long; the new message alone may go further, so
    that a model with a small context can be talked to under a long system prompt. Raises MessageTooLong.
    """
    room = context_length - min(max_new_tokens, context_length // 4)
    limit = context_length - min(max_new_tokens, max(1, context_length // 16))
    head = [{"role": "system", "content": system}] if system else []
    tail = [{"role": "user", "content": message}]
    best = template.prompt_ids(head + tail)
    if len(best) > limit:
        raise MessageTooLong(
            f"the message is too long: with the system prompt it takes {len(best)} tokens of {limit}; "
            "it was not sent, try a shorter one"
        )
    kept = 0
    # Newest first, one prompt per turn that fits: bounded by the context, however long the session is.
    for exchange in reversed(exchanges):
        tail = [
            {"role": "user", "content": exchange.user},
            {"role": "assistant", "content": exchange.reply},
            *tail,
        ]
        longer = template.prompt_ids(head + tail)
        if len(longer) > room:
            break
        best, kept = longer, kept + 1
    return Fitted(prompt_ids=tuple(best), trimmed_turns=len(exchanges) - kept)


def prompt_hash(prompt_ids: Sequence[int]) -> str:
    """Return the SHA-256, in hex, that stands for a prompt in the store."""
    digest = hashlib.sha256(b"niels-gpt prompt 1\0")
    for token_id in prompt_ids:
        digest.update(token_id.to_bytes(4, "little"))
    return digest.hexdigest()
