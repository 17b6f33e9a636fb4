"""Generate many replies together with a decoder: results in the order of the requests, memory bounded.

`niels-generate`, evaluation and the sample of a training run share this loop. The engine is for programs in
which requests come and go; here they are known, so nothing has to wait for an event loop or another thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from niels_gpt.decoding.request import GenerationRequest
from niels_gpt.errors import NielsGptError
from niels_gpt.sampling import Sampling
from niels_gpt.text.chat_template import Message, Template

AHEAD = 4
"""Batches of replies that may be unfinished or wait for an earlier one, so that no slot stays empty behind a
long reply."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """A finished reply: its token ids, its text, and why it ended, or the error that ended it."""

    token_ids: tuple[int, ...]
    text: str
    finish: str
    """"stop", "length", "context", or "error"."""
    error: Exception | None = None


@dataclass(eq=False, slots=True)
class _Running:
    """A reply in progress."""

    sequence: Any
    token_ids: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    reply: Reply | None = None

    def end(self, finish: str, error: Exception | None = None) -> None:
        self.reply = Reply(
            token_ids=tuple(self.token_ids), text="".join(self.texts), finish=finish, error=error
        )


def generate_replies(
    decoder: Any,
    requests: Iterable[GenerationRequest | None],
    *,
    batch_size: int = 32,
    on_text: Callable[[str], None] | None = None,
) -> Generator[Reply, None, None]:
    """Yield the reply to each request, in order. Requests are read as slots become free.

    A reply that fails is yielded with its error; the others continue. When the iterator is closed or fails,
    every sequence is released.

    Args:
        decoder: A decoder of `niels_gpt.decoding`.
        requests: The requests; None stands for an empty reply that ends with "length".
        batch_size: The most replies decoded together.
        on_text: Receives the text of each step as it becomes certain; of interest for a single request.

    """
    source = iter(requests)
    pending: deque[_Running] = deque()
    running: list[_Running] = []
    is_exhausted = False
    try:
        while True:
            while not is_exhausted and len(running) < batch_size and len(pending) < AHEAD * batch_size:
                try:
                    request = next(source)
                except StopIteration:
                    is_exhausted = True
                    break
                item = _admitted(decoder, request)
                pending.append(item)
                if item.reply is None:
                    running.append(item)
            while pending and pending[0].reply is not None:
                yield pending.popleft().reply  # pyright: ignore[reportReturnType] # looked at above
            if running:
                running = _advanced(decoder, running, on_text)
            elif is_exhausted:
                return
    finally:
        for item in running:
            if item.reply is None:
                decoder.release(item.sequence)


def _admitted(decoder: Any, request: GenerationRequest | None) -> _Running:
    item = _Running(None)
    if request is None:
        item.end("length")
        return item
    try:
        item.sequence = decoder.admit(request)
    except NielsGptError as error:
        item.end("error", error)
    return item


def _advanced(decoder: Any, running: list[_Running], on_text: Callable[[str], None] | None) -> list[_Running]:
    """Run one step, release what has ended, and return what continues."""
    steps = decoder.advance([item.sequence for item in running])
    for item, step in zip(running, steps, strict=True):
        for token_id, text in step.tokens:
            item.token_ids.append(token_id)
            if text:
                item.texts.append(text)
                if on_text is not None:
                    on_text(text)
        if step.error is not None or step.finish is not None:
            item.end(step.finish or "error", step.error)
            decoder.release(item.sequence)
    return [item for item in running if item.reply is None]


def greedy_replies(
    decoder: Any,
    template: Template,
    conversations: Sequence[Sequence[Message]],
    *,
    max_new_tokens: int = 160,
    batch_size: int = 32,
) -> list[str]:
    """Return the greedy reply to each conversation, in order.

    Raises:
        ValueError: A conversation leaves no room for a reply.
        Exception: Whatever a reply failed with.

    """
    requests = (
        GenerationRequest(
            prompt_ids=tuple(template.prompt_ids(messages)),
            max_new_tokens=max_new_tokens,
            sampling=Sampling(temperature=0.0, top_k=None),
            seed=0,
            stop_ids=template.stop_ids,
            stop_sequences=template.stop_sequences,
            banned_ids=template.banned_ids,
        )
        for messages in conversations
    )
    texts = []
    for reply in generate_replies(decoder, requests, batch_size=batch_size):
        if reply.error is not None:
            raise reply.error
        texts.append(reply.text)
    return texts
