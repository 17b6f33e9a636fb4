"""Cancelling, at every moment of a job's life: one terminal event, a released sequence, others untouched."""

from __future__ import annotations

import anyio
import pytest

from engine import Engine, JobCancelled, JobDone, JobStarted, JobState, TokenGenerated
from engine.events import Event
from engine.job import Job
from engine.testing import Gate, GatedDecoder, Script, ScriptedDecoder, check_history

pytestmark = pytest.mark.anyio

LONG = Script.of("a" * 1000)


async def history(job: Job) -> list[Event]:
    with anyio.fail_after(10):
        events = [event async for event in job.events()]
    check_history(events)
    return events


async def test_a_queued_job_is_cancelled_on_the_spot_and_never_admitted() -> None:
    gate = Gate()
    decoder = GatedDecoder(gate)
    async with Engine(decoder, max_batch=1) as engine:
        with gate:
            running = engine.submit(LONG)
            with anyio.fail_after(10):
                await gate.reached(1)
            job = engine.submit(Script.of("never"))
            job.cancel()
            assert job.state is JobState.CANCELLED
            assert set(engine.jobs) == {running.id}
    events = await history(job)
    assert len(events) == 2
    assert isinstance(events[-1], JobCancelled)
    assert events[-1].receipt == {}
    assert decoder.admitted == [LONG]


async def test_a_job_cancelled_right_after_submit_never_reaches_the_decoder() -> None:
    decoder = ScriptedDecoder()
    async with Engine(decoder) as engine:
        job = engine.submit(LONG)
        job.cancel()
        assert len(await history(job)) == 2
    assert decoder.admitted == []


async def test_a_job_is_cancelled_in_prefill() -> None:
    gate = Gate()
    decoder = GatedDecoder(gate)
    async with Engine(decoder, slice_ms=1e9) as engine:
        with gate, anyio.fail_after(10):
            job = engine.submit(Script(prefill_steps=1000))
            gate.allow(4)
            await gate.reached(5)
            job.cancel()
            gate.allow(1)
            result = await job.result()
    assert [type(event) for event in (await history(job))[1:]] == [JobStarted, JobCancelled]
    assert (result.reason, result.text, result.receipt) == ("cancelled", "", {"said": 0})
    assert decoder.live == []


async def test_a_job_is_cancelled_between_tokens_within_one_step() -> None:
    gate = Gate()
    decoder = GatedDecoder(gate)
    async with Engine(decoder, slice_ms=1e9) as engine:
        with gate, anyio.fail_after(10):
            job = engine.submit(LONG)
            gate.allow(3)
            await gate.reached(4)
            job.cancel()
            assert job.state is JobState.CANCELLING
            gate.allow(1)  # the step in flight; there must be no other
            result = await job.result()
            assert len(decoder.batches) == 4
            assert decoder.live == []
    assert result.reason == "cancelled"
    assert result.text == "aaaa"
    assert result.receipt == {"said": 4}
    assert isinstance((await history(job))[-1], JobCancelled)


async def test_cancelling_twice_gives_one_terminal_event() -> None:
    gate = Gate()
    async with Engine(GatedDecoder(gate)) as engine:
        with gate, anyio.fail_after(10):
            job = engine.submit(LONG)
            await gate.reached(1)
            job.cancel()
            job.cancel()
            gate.open()
            await job.result()
            job.cancel()
    await history(job)


async def test_cancelling_after_the_end_changes_nothing() -> None:
    async with Engine(ScriptedDecoder()) as engine:
        job = engine.submit(Script.of("hello"))
        before = await history(job)
        job.cancel()
        assert job.state is JobState.DONE
        assert await history(job) == before
    job.cancel()
    assert await history(job) == before


async def test_a_job_whose_last_step_is_in_flight_is_done() -> None:
    gate = Gate()
    async with Engine(GatedDecoder(gate)) as engine:
        with gate, anyio.fail_after(10):
            job = engine.submit(Script.of("x"))
            await gate.reached(1)
            job.cancel()
            gate.open()
            assert (await job.result()).reason == "stop"
    assert isinstance((await history(job))[-1], JobDone)


async def test_the_others_of_the_batch_go_on() -> None:
    gate = Gate()
    async with Engine(GatedDecoder(gate)) as engine:
        with gate, anyio.fail_after(10):
            other = engine.submit(Script.of("hello"))
            job = engine.submit(LONG)
            await gate.reached(1)
            job.cancel()
            gate.open()
            assert (await other.result()).text == "hello"
    await history(job)
    await history(other)


async def test_a_cancelled_job_makes_room_for_the_next() -> None:
    gate = Gate()
    async with Engine(GatedDecoder(gate), max_batch=1) as engine:
        with gate, anyio.fail_after(10):
            job = engine.submit(LONG)
            following = engine.submit(Script.of("next"))
            await gate.reached(1)
            job.cancel()
            gate.open()
            assert (await following.result()).text == "next"


async def test_a_release_that_raises_after_a_cancel_fails_the_job() -> None:
    gate = Gate()
    async with Engine(GatedDecoder(gate)) as engine:
        with gate, anyio.fail_after(10):
            job = engine.submit(Script(tokens=LONG.tokens, release_error=OSError("stuck")))
            await gate.reached(1)
            job.cancel()
            gate.open()
            events = await history(job)
    assert job.state is JobState.FAILED
    assert type(events[-1]).__name__ == "JobFailed"


async def test_the_tokens_decoded_before_the_cancel_are_all_published() -> None:
    gate = Gate()
    async with Engine(GatedDecoder(gate), slice_ms=1e9) as engine:
        with gate, anyio.fail_after(10):
            job = engine.submit(LONG)
            gate.allow(20)
            await gate.reached(21)
            job.cancel()
            gate.open()
            result = await job.result()
    tokens = [event for event in await history(job) if isinstance(event, TokenGenerated)]
    assert len(tokens) == result.receipt["said"] == 21
