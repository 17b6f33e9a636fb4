"""Prompts through the engine together: every sample a job, results in the order of the prompts.

A reply's seed is a function of (--seed, prompt, sample) alone, so neither the batch nor an interruption can
change a text.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from engine import Decoder, Engine, GenerationFailed, Job, TokenGenerated
from niels_gpt.cli.generate.prompts import Completion, Prompt
from niels_gpt.conversation.errors import ChatError
from niels_gpt.decoding.request import GenerationRequest
from niels_gpt.rng import reply_seed
from niels_gpt.sampling import Sampling

if TYPE_CHECKING:
    from niels_gpt.decoding.backend import Backend

    AnyDecoder = Decoder[GenerationRequest, Any]

Take = Callable[[list[Completion]], None]

WAITING = 4
"""Batches of jobs that are submitted ahead, so that no place stays empty behind a long reply."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How each prompt is continued."""

    sampling: Sampling
    max_new_tokens: int
    samples: int
    seed: int
    stop_ids: frozenset[int]
    stop_sequences: tuple[bytes, ...]
    banned_ids: frozenset[int]

    def request(self, prompt: Prompt, sample: int) -> GenerationRequest:
        """Return the request for one sample of a prompt."""
        return GenerationRequest(
            prompt_ids=prompt.ids,
            max_new_tokens=self.max_new_tokens,
            sampling=self.sampling,
            seed=reply_seed(self.seed, prompt.index, sample),
            stop_ids=self.stop_ids,
            stop_sequences=self.stop_sequences,
            banned_ids=self.banned_ids,
        )


async def replies(
    backend: Backend, prompts: Sequence[Prompt], plan: Plan, take: Take, *, batch_size: int
) -> None:
    """Give `take` the samples of each prompt, in order; ChatError for one that fails."""
    if plan.max_new_tokens == 0:
        for prompt in prompts:
            take([_empty(prompt, sample) for sample in range(plan.samples)])
        return
    engine = Engine(
        cast("AnyDecoder", backend.decoder),
        max_batch=batch_size,
        max_queue=WAITING * batch_size + plan.samples,
    )
    async with engine:
        waiting: deque[tuple[Prompt, list[tuple[GenerationRequest, Job]]]] = deque()
        ahead = 0
        for prompt in prompts:
            requests = [plan.request(prompt, sample) for sample in range(plan.samples)]
            waiting.append((prompt, [(request, engine.submit(request)) for request in requests]))
            ahead += plan.samples
            while ahead >= WAITING * batch_size:
                take(await _collected(*waiting.popleft()))
                ahead -= plan.samples
        while waiting:
            take(await _collected(*waiting.popleft()))


async def _collected(prompt: Prompt, jobs: Sequence[tuple[GenerationRequest, Job]]) -> list[Completion]:
    found = []
    for sample, (request, job) in enumerate(jobs):
        try:
            result = await job.result()
        except GenerationFailed as error:
            raise ChatError(f"prompt {prompt.index + 1}: {error.__cause__ or error}") from error
        reply = Completion(
            prompt=prompt,
            sample=sample,
            text=result.text,
            ids=result.token_ids,
            finish=result.reason,
            seed=request.seed,
        )
        found.append(reply)
    return found


def _empty(prompt: Prompt, sample: int) -> Completion:
    return Completion(prompt=prompt, sample=sample, text="", ids=(), finish="length", seed=None)


async def streamed(backend: Backend, prompt: Prompt, plan: Plan, show: Callable[[str], None]) -> None:
    """Show the text of one reply as it comes; ChatError if it fails."""
    if plan.max_new_tokens == 0:
        return
    async with Engine(cast("AnyDecoder", backend.decoder), max_batch=1) as engine:
        job = engine.submit(plan.request(prompt, 0))
        async for event in job.events():
            if isinstance(event, TokenGenerated):
                show(event.text)
        try:
            await job.result()
        except GenerationFailed as error:
            raise ChatError(str(error.__cause__ or error)) from error
