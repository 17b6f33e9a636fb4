"""Measure the engine's figures, each with its baseline in the same run; see `bench.engine`.

Everything here takes turns with its baseline and gives the numbers of each turn; what they mean is said where
they are printed. Knows the decoder as the engine does, and the shipped model only as something that decodes.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio

from engine import Engine, Job, Result, Step
from niels_gpt.decoding.kernel_decoder import KernelDecoder
from niels_gpt.decoding.request import GenerationRequest
from niels_gpt.kernels.gpt_packing import PackedModel
from niels_gpt.sampling import Sampling
from niels_gpt.text.tokenizer import Tokenizer

TICK = 0.001


@dataclass(frozen=True, kw_only=True)
class Place:
    """What is measured: a model, and how much of everything."""

    packed: PackedModel
    tokenizer: Tokenizer
    backend: str
    turns: int
    tokens: int
    """Of a reply."""
    seconds: float
    """For which the event loop's lag is watched."""

    def decoder(self, *, prefix_cache_bytes: int = 0) -> KernelDecoder:
        """A fresh decoder."""
        return KernelDecoder(self.packed, self.tokenizer, threads=1, prefix_cache_bytes=prefix_cache_bytes)

    def request(self, *, prompt: int | Sequence[int] = 16, new: int | None = None, seed: int = 0) -> Any:
        """A reply of exactly `new` tokens after `prompt`, or after so many random tokens."""
        if isinstance(prompt, int):
            chance = random.Random(seed)
            prompt = [chance.randrange(self.packed.shape.V) for _ in range(prompt)]
        return GenerationRequest(
            prompt_ids=tuple(prompt), max_new_tokens=new or self.tokens, sampling=Sampling(), seed=seed,
            stop_ids=frozenset(), stop_sequences=(), banned_ids=frozenset(),
        )  # fmt: skip

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run an asynchronous measurement."""
        return anyio.run(function, *arguments, backend=self.backend)


class Counted:
    """A decoder, and how often it was advanced."""

    def __init__(self, decoder: KernelDecoder) -> None:
        self._decoder = decoder
        self.admit = decoder.admit
        self.begun: list[tuple[float, int]] = []
        """When each step began, and with how many sequences."""
        self.took: list[float] = []

    def advance(self, sequences: Sequence[Any]) -> Any:
        """Count a step."""
        began = time.monotonic()
        self.begun.append((began, len(sequences)))
        steps = self._decoder.advance(sequences)
        self.took.append(time.monotonic() - began)
        return steps

    def release(self, sequence: Any) -> Mapping[str, object]:
        """Nothing to count."""
        return self._decoder.release(sequence)


def bare_loop(place: Place, jobs: int) -> float:
    """Tokens a second of a loop around the decoder that does nothing else."""
    decoder, tokens = place.decoder(), 0
    began = time.perf_counter()
    live = [decoder.admit(place.request(seed=seed)) for seed in range(jobs)]
    while live:
        going = []
        for sequence, step in zip(live, decoder.advance(live), strict=True):
            tokens += len(step.tokens)
            if step.finish is None and step.error is None:
                going.append(sequence)
            else:
                decoder.release(sequence)
        live = going
    return tokens / (time.perf_counter() - began)


async def through_the_engine(place: Place, jobs: int, *, followed: bool) -> float:
    """Tokens a second of the same replies as jobs: only awaited, or each followed token by token."""
    async with Engine(place.decoder()) as engine:
        began = time.perf_counter()
        running = [engine.submit(place.request(seed=seed)) for seed in range(jobs)]
        results: list[Result] = []

        async def follow(job: Job) -> None:
            async for _ in job.events():
                pass

        async with anyio.create_task_group() as followers:
            for job in running if followed else []:
                followers.start_soon(follow, job)
            results += [await job.result() for job in running]
        return sum(len(result.token_ids) for result in results) / (time.perf_counter() - began)


def throughput(place: Place, jobs: int, *, followed: bool) -> list[tuple[float, float]]:
    """(bare, engine) of each turn; who goes first alternates."""

    def engine() -> float:
        return place.run(partial(through_the_engine, place, jobs, followed=followed))

    bare_loop(place, jobs)
    pairs: list[tuple[float, float]] = []
    for turn in range(place.turns):
        if turn % 2:
            rate = engine()
            pairs.append((bare_loop(place, jobs), rate))
        else:
            bare = bare_loop(place, jobs)
            pairs.append((bare, engine()))
    return pairs


async def lag(place: Place, jobs: int) -> list[float]:
    """Seconds by which a ticker of the event loop is late, sorted, while so many jobs are decoded."""
    late: list[float] = []
    async with Engine(place.decoder()) as engine:

        async def keep_busy(seed: int) -> None:
            while True:
                async for _ in engine.submit(place.request(seed=seed)).events():
                    pass

        async with anyio.create_task_group() as load:
            for seed in range(jobs):
                load.start_soon(keep_busy, seed)
            until = time.monotonic() + place.seconds
            while (began := time.monotonic()) < until:
                await anyio.sleep(TICK)
                late.append(time.monotonic() - began - TICK)
            load.cancel_scope.cancel()
    return sorted(late)


@dataclass(frozen=True, kw_only=True)
class Cancel:
    """One cancel: how long until the terminal event, in seconds and in steps of its own begun meanwhile."""

    seconds: float
    steps: int
    step_seconds: float
    """Of the median step."""


async def cancels(place: Place, jobs: int) -> list[Cancel]:
    """One of `jobs` running jobs is cancelled at a random moment, once a turn."""
    chance, found = random.Random(0), list[Cancel]()
    decoder = Counted(place.decoder())
    async with Engine(decoder) as engine:
        for _ in range(place.turns * 4):
            running = [engine.submit(place.request(seed=seed)) for seed in range(jobs)]
            for job in running:
                await anext(job.events(2))
            await anyio.sleep(chance.random() * 0.02)
            job = chance.choice(running)
            began = time.monotonic()
            job.cancel()
            result = await job.result()
            ended = time.monotonic()
            if result.reason == "cancelled":
                steps = sum(began < at < ended and width == jobs for at, width in decoder.begun)
                step = statistics.median(decoder.took)
                found.append(Cancel(seconds=ended - began, steps=steps, step_seconds=step))
            for other in running:
                other.cancel()
                await other.result()
    return found


class Repeater:
    """A decoder that says the same sixteen tokens for as many steps as it is asked to."""

    AT_ONCE = 16
    STEP = Step([(1, "a")] * AT_ONCE)
    LAST = Step([(1, "a")] * AT_ONCE, finish="stop")

    def admit(self, request: int) -> list[int]:
        """Begin."""
        return [request]

    def advance(self, sequences: Sequence[list[int]]) -> list[Step]:
        """Say them."""
        for left in sequences:
            left[0] -= 1
        return [self.STEP if left[0] > 0 else self.LAST for left in sequences]

    def release(self, sequence: list[int]) -> dict[str, object]:
        """Tell what was not said."""
        return {"left": sequence[0]}


async def event_cost(tokens: int, followers: int) -> float:
    """Seconds of processor time of all threads for one event, over a decoder that costs next to nothing."""
    async with Engine(Repeater()) as engine:
        began = time.process_time()
        job = engine.submit(tokens // Repeater.AT_ONCE)

        async def follow() -> None:
            async for _ in job.events():
                pass

        async with anyio.create_task_group() as tasks:
            for _ in range(followers):
                tasks.start_soon(follow)
            await job.result()
        return (time.process_time() - began) / (tokens + 3)


async def first_token(place: Place, *, ahead: int, prompt: int) -> float:
    """Seconds until a job of `prompt` tokens has its first one, with so many long prompts being read."""
    long = place.packed.T - 8
    async with Engine(place.decoder()) as engine:
        for seed in range(ahead):
            engine.submit(place.request(prompt=long, new=4, seed=seed))
        if ahead:
            await anyio.sleep(0.002)  # the first of them is being read
        job = engine.submit(place.request(prompt=prompt, new=4, seed=99))
        await anext(job.events(2))
        return job.statistics().first_token or 0.0


async def follow_up(place: Place, *, prefix_cache_bytes: int, history: int, question: int = 16) -> float:
    """Seconds until the first token of a question after a conversation of `history` tokens."""
    async with Engine(place.decoder(prefix_cache_bytes=prefix_cache_bytes)) as engine:
        first = place.request(prompt=history - 32, new=32, seed=1)
        reply = (await engine.submit(first).result()).token_ids
        prompt = [*first.prompt_ids, *reply, *place.request(prompt=question, seed=2).prompt_ids]
        job = engine.submit(place.request(prompt=prompt, new=4))
        await job.result()
        return job.statistics().first_token or 0.0
