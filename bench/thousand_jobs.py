"""Run a thousand conversations at once; check that replies equal their solo runs and nothing leaks.

    python -m bench.thousand_jobs [--jobs 1000] [--backend asyncio|trio] [--seed 0] [--ckpt PATH]

First every reply is generated alone by a decoder without a cache. Then all are submitted at once to one
engine, with ten subscribers that stall permanently after their first event. A fifth of the jobs are cancelled
at random: in the queue, at their first tokens, or later. Exit status 1 if a reply differs from its solo run
(ids or logits), if a history is incomplete, or if a task, a thread, an open file, a job or a state of the
decoder is left.
"""

from __future__ import annotations

import argparse
import gc
import random
import resource
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import torch

from engine import Engine, Job, Result, TokenGenerated
from engine.event_log import Cursor
from engine.testing import check_history
from niels_gpt.decoding.kernel_decoder import KernelDecoder, KernelSequence
from niels_gpt.decoding.request import GenerationRequest
from niels_gpt.kernels.gpt_packing import PackedModel, pack_gpt
from niels_gpt.model.loading import LoadedModel, load_model
from niels_gpt.paths import SHIPPED_CHECKPOINT
from niels_gpt.sampling import Sampling

STALLED = 10
MIB = 2**20
OPEN_FILES = Path("/proc/self/fd")
QUESTIONS = (
    "who are you?",
    "what is attention?",
    "how do i undo my last message?",
    "tell me about tokens",
    "why?",
)


@dataclass(frozen=True)
class Solo:
    """A reply made alone."""

    ids: tuple[int, ...]
    logits_hash: object


@dataclass(frozen=True)
class Held:
    """What this process holds that a run could leave behind."""

    tasks: int
    threads: int
    files: int
    cursors: int
    sequences: int

    @classmethod
    def now(cls) -> Held:
        """Count, after the garbage is gone."""
        gc.collect()
        kinds = Counter(map(type, gc.get_objects()))
        return cls(
            tasks=len(anyio.get_running_tasks()),
            threads=threading.active_count(),
            files=len(list(OPEN_FILES.iterdir())) if OPEN_FILES.exists() else 0,
            cursors=kinds[Cursor],
            sequences=kinds[KernelSequence],
        )


def requests(loaded: LoadedModel, count: int, seed: int) -> list[GenerationRequest]:
    """Chats of one to three turns under one of two system prompts, sampled, of up to 60 tokens."""
    chance, template = random.Random(seed), loaded.template

    def words() -> str:
        return " ".join(chance.choices(QUESTIONS, k=chance.randint(1, 2)))

    made: list[GenerationRequest] = []
    for number in range(count):
        messages = [{"role": "system", "content": f"you are helpful and {chance.choice(['brief', 'kind'])}."}]
        for _ in range(chance.randrange(3)):
            messages += [{"role": "user", "content": words()}, {"role": "assistant", "content": words()}]
        messages.append({"role": "user", "content": words()})
        made.append(
            GenerationRequest(
                prompt_ids=tuple(template.prompt_ids(messages)), max_new_tokens=chance.randint(1, 60),
                sampling=Sampling(temperature=chance.choice([0.0, 0.7, 1.5])), seed=number,
                stop_ids=template.stop_ids, stop_sequences=template.stop_sequences,
                banned_ids=template.banned_ids,
            )
        )  # fmt: skip
    return made


def alone(decoder: KernelDecoder, request: GenerationRequest) -> Solo:
    """One reply, and nobody else."""
    sequence, ids = decoder.admit(request), list[int]()
    while True:
        (step,) = decoder.advance([sequence])
        ids += [token_id for token_id, _ in step.tokens]
        if step.finish is not None:
            return Solo(tuple(ids), decoder.release(sequence)["logits_hash"])


class Crowd:
    """All of them at once."""

    def __init__(self, decoder: KernelDecoder, wanted: Sequence[GenerationRequest], seed: int) -> None:
        self.chance = random.Random(seed)
        self.engine = Engine[GenerationRequest, Any](decoder, max_queue=len(wanted))
        self.wanted = wanted
        self.victims = set(self.chance.sample(range(len(wanted)), len(wanted) // 5))
        self.jobs: list[Job] = []
        self.results: list[Result] = []
        self.seconds = 0.0

    async def run(self) -> None:
        """Submit, stall, cancel, wait."""
        async with anyio.create_task_group() as others:
            async with self.engine as engine:
                began = time.perf_counter()
                feeds = [engine.subscribe() for _ in range(STALLED // 2)]
                self.jobs = [engine.submit(request) for request in self.wanted]
                for cursor in [*feeds, *(self.jobs[n].events() for n in range(STALLED - len(feeds)))]:
                    others.start_soon(self._stall, cursor)
                for number in sorted(self.victims):
                    others.start_soon(self._cancel, self.jobs[number])
                self.results = [await job.result() for job in self.jobs]
                self.seconds = time.perf_counter() - began
            others.cancel_scope.cancel()

    async def _stall(self, cursor: Cursor) -> None:
        await anext(cursor)
        await anyio.sleep_forever()

    async def _cancel(self, job: Job) -> None:
        """After so many of its events: 1 is in the queue, 3 the first token."""
        events = self.chance.choice([1, 2, 3, self.chance.randint(4, 40)])
        async for event in job.events():
            if event.seq + 1 >= events:
                break
        job.cancel()

    async def faults(self, solo: Sequence[Solo]) -> list[str]:
        """What is not as it must be."""
        found: list[str] = []
        for number, (job, result, wanted) in enumerate(zip(self.jobs, self.results, solo, strict=True)):
            events = [event async for event in job.events()]
            try:
                check_history(events)
            except AssertionError as error:
                found.append(f"{job.id}: {str(error).splitlines()[0]}")
            said = tuple(event.token_id for event in events if isinstance(event, TokenGenerated))
            if said != result.token_ids or said != wanted.ids[: len(said)]:
                found.append(f"{job.id}: other tokens than alone")
            elif result.reason != "cancelled" and (
                said != wanted.ids or result.receipt["logits_hash"] != wanted.logits_hash
            ):
                found.append(f"{job.id}: a reply that is not the same bits as alone")
            elif result.reason == "cancelled" and number not in self.victims:
                found.append(f"{job.id}: cancelled by nobody")
        if self.engine.jobs:
            found.append(f"{len(self.engine.jobs)} job(s) are left in the engine")
        return found


async def measure(packed: PackedModel, loaded: LoadedModel, count: int, seed: int) -> list[str]:
    """Run both ways, print what there was, return the faults."""
    wanted = requests(loaded, count, seed)
    lonely = KernelDecoder(packed, loaded.tokenizer, prefix_cache_bytes=0)
    began = time.perf_counter()
    solo = [alone(lonely, request) for request in wanted]
    took = time.perf_counter() - began
    lonely.close()
    before, resident = Held.now(), _peak()
    decoder = KernelDecoder(packed, loaded.tokenizer)
    crowd = Crowd(decoder, wanted, seed)
    await crowd.run()
    decoder.close()
    peak, numbers = _peak(), crowd.engine.statistics()
    faults = await crowd.faults(solo)
    after = Held.now()
    if after != before:
        faults.append(f"left behind: {before} before, {after} after")
    whole = sum(result.reason != "cancelled" for result in crowd.results)
    for line in (
        f"{count:,} jobs: {numbers.done:,} done, {numbers.cancelled:,} cancelled, {numbers.failed:,} failed",
        f"whole replies compared with their solo run, ids and logits: {whole:,}",
        f"{numbers.tokens:,} tokens in {crowd.seconds:.1f} s; one after the other, alone: {took:.1f} s",
        f"places taken: {numbers.occupancy or 0:.0%}",
        f"prompt tokens reused: {numbers.reused_tokens:,} of {numbers.prompt_tokens:,}",
        f"before: {before}",
        f"after: {after}",
        f"peak memory: {peak / MIB:,.0f} MiB, {(peak - resident) / MIB:,.0f} above model and solo runs",
        f"faults: {len(faults)}",
    ):
        print(line)
    return faults


def _peak() -> int:
    """Bytes of the largest resident set so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main(argv: Sequence[str] | None = None) -> int:
    """Run and judge."""
    parser = argparse.ArgumentParser(prog="bench.thousand_jobs", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ckpt", type=Path, default=SHIPPED_CHECKPOINT)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    loaded = load_model(options.ckpt)
    packed = pack_gpt(loaded.gpt)
    faults = anyio.run(measure, packed, loaded, options.jobs, options.seed, backend=options.backend)
    for fault in faults[:20]:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
