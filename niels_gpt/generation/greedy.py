"""Greedy replies to many conversations at once, through any decoder.

For evaluation and for the sample that training shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from niels_gpt.decoding.request import GenerationRequest
from niels_gpt.sampling import Sampling
from niels_gpt.text.chat_template import Template
from niels_gpt.text.transcript import Message


def greedy_replies(
    decoder: Any,
    template: Template,
    conversations: Sequence[Sequence[Message]],
    *,
    max_new_tokens: int = 160,
    batch_size: int = 32,
) -> list[str]:
    """Return the greedy reply to each conversation, in order, of a `TorchDecoder` or `KernelDecoder`.

    Raises ValueError for a conversation that leaves no room for a reply, and whatever one reply failed with.
    """
    requests = [
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
    ]
    texts = [""] * len(requests)
    waiting = list(range(len(requests)))[::-1]
    running: dict[int, Any] = {}
    while waiting or running:
        while waiting and len(running) < batch_size:
            index = waiting.pop()
            running[index] = decoder.admit(requests[index])
        steps = decoder.advance(list(running.values()))
        for index, step in zip(list(running), steps, strict=True):
            if step.error is not None:
                raise step.error
            texts[index] += "".join(text for _, text in step.tokens)
            if step.finish is not None:
                decoder.release(running.pop(index))
    return texts
