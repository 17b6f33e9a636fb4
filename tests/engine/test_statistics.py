"""The numbers: one call, plain values, and they add up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

import anyio
import pytest

from engine import Engine, GenerationFailed, Percentiles, Step
from engine.statistics import _percentiles
from engine.testing import Gate, GatedDecoder, Script, ScriptedDecoder, ScriptedSequence

pytestmark = pytest.mark.anyio


class TickingDecoder(ScriptedDecoder):
    """A step takes a second."""

    now = 0.0

    def clock(self) -> float:
        return self.now

    def advance(self, sequences: Sequence[ScriptedSequence]) -> Sequence[Step]:
        self.now += 1.0
        if any(sequence.script.finish == "explode" for sequence in sequences):
            raise OSError("no power")
        return super().advance(sequences)


async def test_an_engine_that_did_nothing_has_nothing_to_tell() -> None:
    async with Engine(ScriptedDecoder()) as engine:
        numbers = asdict(engine.statistics())
    assert {name for name, value in numbers.items() if value} == set()
    assert numbers["tokens_per_second"] is numbers["occupancy"] is numbers["queue_seconds"] is None


async def test_an_engines_numbers_are_those_of_its_jobs() -> None:
    decoder = TickingDecoder()
    async with Engine(decoder, max_batch=2, clock=decoder.clock) as engine:
        with anyio.fail_after(10):
            scripts = [Script(tokens=[(1, "a")] * 4, prefill_steps=2), Script.of("bb"), Script.of("cccc")]
            first = [engine.submit(script) for script in scripts]
            for job in first:
                await job.result()
            cancelled = engine.submit(Script.of("d"))
            cancelled.cancel()
            with pytest.raises(GenerationFailed):
                await engine.submit(Script(finish="explode")).result()
        numbers = engine.statistics()
    assert (numbers.submitted, numbers.done, numbers.cancelled, numbers.failed) == (5, 3, 1, 1)
    assert (numbers.queued, numbers.running, numbers.batch_failures) == (0, 0, 1)
    assert (numbers.tokens, numbers.steps, numbers.busy_seconds) == (10, 7, 7.0)
    assert numbers.tokens_per_second == 10 / 7
    # Two in each of the six steps of the first three, one in the step that failed.
    assert numbers.occupancy == 13 / 7 / 2
    assert numbers.queue_seconds == Percentiles(p50=0.0, p90=2.0, p99=2.0, most=2.0)
    assert numbers.first_token_seconds == Percentiles(p50=3.0, p90=3.0, p99=3.0, most=3.0)


async def test_what_receipts_say_of_reused_prompts_is_summed_up() -> None:
    receipts = [{"prompt_tokens": 10, "reused_tokens": 8}, {"prompt_tokens": 5, "reused_tokens": 0}, {}]
    odd = {"prompt_tokens": "many", "reused_tokens": True}
    async with Engine(ScriptedDecoder()) as engine:
        jobs = [engine.submit(Script(receipt=receipt)) for receipt in [*receipts, odd]]
        with anyio.fail_after(5):
            await engine.drain()
        numbers = engine.statistics()
    assert (numbers.prompt_tokens, numbers.reused_tokens, numbers.prefix_hits) == (15, 8, 1)
    assert [job.statistics().reused_tokens for job in jobs] == [8, 0, None, None]


async def test_a_jobs_numbers_count_from_submit() -> None:
    decoder = TickingDecoder()
    async with Engine(decoder, max_batch=1, clock=decoder.clock) as engine:
        ahead = engine.submit(Script.of("aa"))
        job = engine.submit(Script(tokens=[(1, "b")] * 5, prefill_steps=3))
        with anyio.fail_after(5):
            await job.result()
            await ahead.result()
    numbers = job.statistics()
    assert (numbers.state, numbers.tokens) == ("done", 5)
    assert (numbers.queued, numbers.first_token, numbers.total) == (2.0, 6.0, 10.0)
    assert numbers.tokens_per_second == 1.0


async def test_the_numbers_of_a_job_that_has_ended_stay_as_they_were() -> None:
    decoder = TickingDecoder()
    async with Engine(decoder, clock=decoder.clock) as engine:
        job = engine.submit(Script.of("aa"))
        with anyio.fail_after(5):
            await job.result()
            before = job.statistics()
            await engine.submit(Script.of("bbb")).result()
    assert job.id == "job-1"
    assert job.statistics() == before


async def test_a_running_job_has_numbers_so_far() -> None:
    gate = Gate()
    async with Engine(GatedDecoder(gate)) as engine:
        with gate, anyio.fail_after(10):
            job = engine.submit(Script.of("hello"))
            waiting = job.statistics()
            assert (waiting.state, waiting.first_token, waiting.tokens_per_second) == ("queued", None, None)
            gate.allow(1)
            await anext(job.events(2))
            numbers = job.statistics()
            assert (numbers.state, numbers.tokens) == ("running", 1)
            assert numbers.first_token is not None
            assert engine.statistics().running == 1


async def test_numbers_are_json() -> None:
    async with Engine(ScriptedDecoder()) as engine:
        job = engine.submit(Script.of("hello"))
        with anyio.fail_after(5):
            await job.result()
        for numbers in (engine.statistics(), job.statistics()):
            record = asdict(numbers)
            assert json.loads(json.dumps(record)) == record


def test_percentiles_are_of_the_nearest_rank() -> None:
    assert _percentiles(float(n) for n in range(1, 101)) == Percentiles(p50=50, p90=90, p99=99, most=100)
    assert _percentiles([7.0]) == Percentiles(p50=7, p90=7, p99=7, most=7)
    assert _percentiles([]) is None
