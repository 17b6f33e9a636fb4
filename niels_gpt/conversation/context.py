"""Fit a conversation into the model's context.

The prompt is the system prompt, the newest whole turns and the new message. The oldest turns leave first and
the system prompt stays; only where it leaves no room for the message is its beginning cut off.

Turns leave in steps of three eighths of the context, so that at least a quarter of it is free afterwards,
unless a single turn is very long. Between two steps each prompt begins with the one before: the keys and
values of that one are reused, and only what is new is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakKeyDictionary

import numpy as np

from niels_gpt.conversation.errors import MessageTooLong
from niels_gpt.text.chat_template import Template

CONTEXT_RULE = 3
"""Raised when the same path of messages would give another prompt; recorded with every reply.

1: the last system prompt, whole turns from the newest on, empty replies and unanswered messages left out.
2: messages in a row are joined, questions and replies alike, with a blank line between them; a system prompt
that leaves no room for the message loses its beginning.
3: turns that no longer fit leave in steps of three eighths of the context, instead of as few as possible.
"""
_BETWEEN = "\n\n"
_PROBE = [{"role": "user", "content": "x"}]
_REMEMBERED_CHARACTERS = 2**24


class PathMessage(Protocol):
    """A message of a path: what `sessions.Message` has of it."""

    @property
    def role(self) -> str:
        """Who wrote it: "system", "user" or "assistant"."""
        ...

    @property
    def content(self) -> str:
        """Its text."""
        ...

    @property
    def status(self) -> str:
        """Whether it was said to its end: "complete", or "cancelled" for a reply that was stopped."""
        ...


@dataclass(frozen=True, kw_only=True)
class TextMessage:
    """A message of a path that is not stored."""

    role: str
    content: str
    status: str = "complete"


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A user's message and the reply to it, as texts."""

    user: str
    reply: str


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A prompt that leaves room for a reply, and what was left out of it.

    `trimmed_turns` counts the oldest turns, `cut_tokens` the tokens at the beginning of the system prompt.
    """

    prompt_ids: tuple[int, ...]
    trimmed_turns: int
    cut_tokens: int = 0


def system_of(path: Sequence[PathMessage]) -> str | None:
    """Return the system prompt that counts after a path: its last; None if there is none, or it is empty."""
    prompts = [message.content for message in path if message.role == "system"]
    return (prompts[-1] or None) if prompts else None


def exchanges_of(
    path: Sequence[PathMessage], *, keep_stopped: bool = True, rule: int = CONTEXT_RULE
) -> list[Exchange]:
    """Return the answered turns of a path, oldest first.

    A turn whose reply is blank is left out, and so is one whose reply was stopped unless `keep_stopped`.

    Args:
        path: The messages, oldest first.
        keep_stopped: Whether a reply that was stopped counts.
        rule: The `CONTEXT_RULE` that the prompt is made under.
    """
    if rule == 1:
        return _strict_exchanges(path, keep_stopped=keep_stopped)
    found: list[Exchange] = []
    questions: list[str] = []
    replies: list[str] = []
    answered = False

    def close() -> None:
        if questions and replies:
            found.append(Exchange(user=_BETWEEN.join(questions), reply=_BETWEEN.join(replies)))

    for message in path:
        if message.role == "user":
            if answered:
                close()
                questions, replies, answered = [], [], False
            questions.append(message.content)
        elif message.role == "assistant":
            answered = True
            if message.content.strip() and (keep_stopped or message.status != "cancelled"):
                replies.append(message.content)
    close()
    return found


def with_unanswered(path: Sequence[PathMessage], message: str, *, rule: int = CONTEXT_RULE) -> str:
    """Return a new message together with the unanswered ones that end the path."""
    waiting: list[str] = []
    for earlier in reversed(path if rule > 1 else ()):
        if earlier.role == "assistant":
            break
        if earlier.role == "user":
            waiting.append(earlier.content)
    return _BETWEEN.join([*reversed(waiting), message])


def fit(
    *,
    template: Template,
    context_length: int,
    max_new_tokens: int,
    system: str | None,
    exchanges: Sequence[Exchange],
    message: str,
    rule: int = CONTEXT_RULE,
) -> Fitted:
    """Return the prompt of the newest whole turns that leave room for a reply.

    Old turns leave a quarter of the context free for the reply, or less if the reply may not be that long.
    The system prompt and the new message may take up to fifteen sixteenths of it.

    Args:
        template: Makes token ids of messages.
        context_length: T, the tokens that a prompt and its reply may have together.
        max_new_tokens: The longest reply, in tokens.
        system: The system prompt, None for none.
        exchanges: The turns before, oldest first.
        message: The new message.
        rule: The `CONTEXT_RULE` that the prompt is made under.

    Raises:
        MessageTooLong: The message leaves no room for a reply even alone.
    """
    room = context_length - min(max_new_tokens, context_length // 4)
    limit = context_length - min(max_new_tokens, max(1, context_length // 16))
    head = [{"role": "system", "content": system}] if system else []
    tail = [{"role": "user", "content": message}]

    def prompt_with(count: int) -> list[int]:
        turns: list[dict[str, str]] = []
        for exchange in exchanges[len(exchanges) - count :]:
            turns += [
                {"role": "user", "content": exchange.user},
                {"role": "assistant", "content": exchange.reply},
            ]
        return template.prompt_ids(head + turns + tail)

    best = prompt_with(0)
    if len(best) > limit:
        alone = len(template.prompt_ids(tail))
        if alone > limit or rule == 1:
            raise MessageTooLong(
                f"too long: {alone} tokens; {limit} fit ({context_length} minus {context_length - limit} "
                "kept for the reply)"
            )
        kept = room if alone <= room else limit
        return Fitted(
            prompt_ids=tuple(best[-kept:]), trimmed_turns=len(exchanges), cut_tokens=len(best) - kept
        )
    if rule < 3:
        best, kept = _most_turns(prompt_with, best, len(exchanges), room)
        return Fitted(prompt_ids=tuple(best), trimmed_turns=len(exchanges) - kept)
    sizes = _sizes_of(template)
    dropped = _dropped_turns(
        [sizes.of(exchange) for exchange in exchanges],
        excess=len(best) - room,
        step=min(3 * context_length // 8, (room - sizes.smallest(system)) // 2),
    )
    while dropped < len(exchanges):
        prompt = prompt_with(len(exchanges) - dropped)
        if len(prompt) <= room:
            best = prompt
            break
        dropped += 1  # a template that does not add up: the whole is longer than its parts
    return Fitted(prompt_ids=tuple(best), trimmed_turns=dropped)


def _dropped_turns(sizes: Sequence[int], *, excess: int, step: int) -> int:
    """Return how many of the oldest turns leave the prompt.

    The tokens that are too many are rounded up to whole steps, and the fewest turns that have as many leave.
    A conversation that grows stays at the same turn until it has grown by a step.

    Args:
        sizes: The tokens of each turn, oldest first.
        excess: How many tokens the prompt without any turn has beyond its room; below 0 for room left.
        step: The tokens of a step.
    """
    excess += sum(sizes)
    if excess <= 0:
        return 0
    step = max(1, step)
    wanted = -(-excess // step) * step
    dropped = 0
    while wanted > 0 and dropped < len(sizes):
        wanted -= sizes[dropped]
        dropped += 1
    return dropped


def _most_turns(
    prompt_with: Callable[[int], list[int]], without: list[int], turns: int, room: int
) -> tuple[list[int], int]:
    """Return the longest prompt of whole turns that fits, and their number: rules 1 and 2.

    Twice as many turns until they no longer fit, then halves: a longer tail never makes a shorter prompt, and
    what is encoded is bounded by the context, however long the session is.
    """
    best, fitting, beyond = without, 0, turns + 1
    while beyond - fitting > 1:
        tried = min(2 * fitting or 1, turns) if beyond > turns else (fitting + beyond) // 2
        longer = prompt_with(tried)
        if len(longer) <= room:
            best, fitting = longer, tried
        else:
            beyond = tried
    return best, fitting


class _TurnSizes:
    """The tokens that turns add to a prompt of one template, each measured once."""

    def __init__(self, template: Template) -> None:
        self._template = template
        self._sizes: dict[Exchange, int] = {}
        self._characters = 0

    def of(self, exchange: Exchange) -> int:
        """Return the tokens of a turn."""
        size = self._sizes.get(exchange)
        if size is None:
            turn = [
                {"role": "user", "content": exchange.user},
                {"role": "assistant", "content": exchange.reply},
            ]
            size = len(self._template.prompt_ids([*turn, *_PROBE])) - self.smallest(None)
            self._characters += len(exchange.user) + len(exchange.reply)
            if self._characters > _REMEMBERED_CHARACTERS:
                self._sizes, self._characters = {}, 0
            self._sizes[exchange] = size
        return size

    def smallest(self, system: str | None) -> int:
        """Return the tokens of a prompt of the shortest message."""
        head = [{"role": "system", "content": system}] if system else []
        return len(self._template.prompt_ids([*head, *_PROBE]))


# By template, for as long as it is in use: every program of a process asks for the same turns again.
_SIZES: WeakKeyDictionary[Template, _TurnSizes] = WeakKeyDictionary()


def _sizes_of(template: Template) -> _TurnSizes:
    sizes = _SIZES.get(template)
    if sizes is None:
        sizes = _SIZES[template] = _TurnSizes(template)
    return sizes


def prompt_hash(prompt_ids: Sequence[int]) -> str:
    """Return the SHA-256, in hex, that stands for a prompt in the store."""
    return hashlib.sha256(b"niels-gpt prompt 1\0" + np.array(prompt_ids, "<u4").tobytes()).hexdigest()


def _strict_exchanges(path: Sequence[PathMessage], *, keep_stopped: bool) -> list[Exchange]:
    """Return the turns under rule 1: one question and the first reply to it."""
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
