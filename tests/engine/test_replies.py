"""Jobs from submit to result: the right reply, in the right order, in one batch."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence

import anyio
import pytest

from engine import Engine, GenerationFailed, JobDone, JobQueued, JobStarted, JobState, Step, TokenGenerated
from engine.events import Event
from engine.job import Job
from engine.testing import Gate, GatedDecoder, Script, ScriptedDecoder, ScriptedSequence, check_history

pytestmark = pytest.mark.anyio


async def history(job: Job) -> list[Event]:
    with anyio.fail_after(10):
        return [event async for event in job.events()]


async def published(job: Job) -> list[Event]:
    """What is in the job's log already, without waiting for more."""
    seen: list[Event] = []
    with anyio.move_on_after(0):
        async for event in job.events():
            seen.append(event)  # noqa: PERF401  # a comprehension would lose all when it is cut off
    return seen


async def test_a_reply_comes_as_events_in_order() -> None:
    script = Script(tokens=[(5, "he"), (6, ""), (7, "y")], finish="length", receipt={"hash": "ab"})
    async with Engine(ScriptedDecoder()) as engine:
        job = engine.submit(script)
        events = await history(job)
    check_history(events)
    assert [type(event) for event in events] == [JobQueued, JobStarted, *[TokenGenerated] * 3, JobDone]
    tokens = [event for event in events if isinstance(event, TokenGenerated)]
    assert [(token.token_id, token.text) for token in tokens] == [(5, "he"), (6, ""), (7, "y")]
    end = events[-1]
    assert isinstance(end, JobDone)
    assert end.reason == "length"
    assert end.receipt == {"hash": "ab", "said": 3}


async def test_a_result_is_the_whole_reply() -> None:
    async with Engine(ScriptedDecoder()) as engine:
        job = engine.submit(Script(tokens=[(5, "he"), (6, ""), (7, "y")], finish="context"))
        with anyio.fail_after(5):
            result = await job.result()
    assert (result.job_id, result.token_ids, result.text) == (job.id, (5, 6, 7), "hey")
    assert result.reason == "context"
    assert result.receipt == {"said": 3}


async def test_an_empty_reply_is_done_too() -> None:
    async with Engine(ScriptedDecoder()) as engine:
        job = engine.submit(Script())
        check_history(await history(job))
        assert (await job.result()).text == ""


async def test_submit_returns_a_queued_live_job_at_once() -> None:
    async with Engine(ScriptedDecoder()) as engine:
        job = engine.submit(Script.of("x"))
        assert job.state is JobState.QUEUED
        assert dict(engine.jobs) == {job.id: job}
        assert repr(job) == f"<Job {job.id!r} queued>"
        await history(job)
        assert job.state is JobState.DONE
        assert dict(engine.jobs) == {}


async def wrong_replies(decoder: ScriptedDecoder) -> int:
    """Run fifty jobs of random lengths through four places; return how many replies are not as scripted."""
    chance = random.Random(7)
    scripts = [
        Script(
            tokens=[(chance.randrange(1000), chance.choice(["a", "é", "", "🦜"])) for _ in range(length)],
            prefill_steps=chance.randrange(4),
            tokens_a_step=chance.randint(1, 3),
        )
        for length in (chance.randrange(60) for _ in range(50))
    ]
    async with Engine(decoder, max_batch=4, slice_ms=0.2) as engine:
        jobs = [engine.submit(script) for script in scripts]
        with anyio.fail_after(20):
            results = [await job.result() for job in jobs]
        for job in jobs:
            check_history(await history(job))
    replies = [(result.token_ids, result.text) for result in results]
    right = [(tuple(token_id for token_id, _ in script.tokens), script.text) for script in scripts]
    return sum(reply != script for reply, script in zip(replies, right, strict=True))


async def test_fifty_jobs_through_four_places_all_get_their_own_reply() -> None:
    decoder = ScriptedDecoder()
    assert await wrong_replies(decoder) == 0
    assert max(map(len, decoder.batches)) == 4
    assert decoder.live == []


async def test_a_decoder_that_swaps_two_replies_once_is_caught() -> None:
    class SwappingDecoder(ScriptedDecoder):
        def advance(self, sequences: Sequence[ScriptedSequence]) -> Sequence[Step]:
            steps = list(super().advance(sequences))
            if len(self.batches) == 10:
                steps[0], steps[1] = steps[1], steps[0]
            return steps

    assert await wrong_replies(SwappingDecoder()) == 2


async def test_more_jobs_than_places_start_first_come_first_served() -> None:
    scripts = [Script.of(name * (3 + number % 5)) for number, name in enumerate("abcdefghij")]
    decoder = ScriptedDecoder()
    async with Engine(decoder, max_batch=2) as engine:
        jobs = [engine.submit(script) for script in scripts]
        with anyio.fail_after(10):
            for job in jobs:
                await job.result()
    assert decoder.admitted == scripts


async def test_a_newcomer_joins_a_running_batch_between_two_steps() -> None:
    gate = Gate()
    decoder = GatedDecoder(gate)
    # A slice far longer than the test: only the newcomer itself can end it.
    async with Engine(decoder, slice_ms=1e9) as engine:
        with gate, anyio.fail_after(20):
            engine.submit(Script.of("aaaaaaaaaa"))
            gate.allow(3)
            await gate.reached(4)
            newcomer = engine.submit(Script.of("b"))
            gate.allow(2)
            assert (await newcomer.result()).text == "b"
    assert decoder.batches[4] == ("aaaaaaaaaa", "b")


async def test_many_tokens_cross_the_thread_border_at_once() -> None:
    """The event loop sees the last tokens of a slice together: they were not handed over one by one."""
    gate = Gate()
    async with Engine(GatedDecoder(gate), slice_ms=1e9) as engine:
        with gate, anyio.fail_after(20):
            job = engine.submit(Script.of("0123456789"))
            gate.allow(9)
            await gate.reached(10)
            await anext(job.events(2))
            seen = await published(job)
            assert [type(event) for event in seen] == [JobQueued, JobStarted, TokenGenerated]


async def test_the_next_slice_is_decoded_while_the_event_loop_is_busy() -> None:
    gate = Gate()
    async with Engine(GatedDecoder(gate), slice_ms=0) as engine:
        with gate, anyio.fail_after(20):
            job = engine.submit(Script.of("hello"))
            await gate.reached(1)
            gate.allow(1)
            with gate._changed:  # the event loop waits here, so that nothing can be published meanwhile
                assert gate._changed.wait_for(lambda: gate._arrived == 2, timeout=10)
            assert [type(event) for event in await published(job)][:2] == [JobQueued, JobStarted]
            gate.open()
            assert (await job.result()).text == "hello"


async def test_every_call_of_the_decoder_comes_from_one_thread_of_its_own() -> None:
    decoder = ScriptedDecoder()
    async with Engine(decoder, slice_ms=0) as engine:
        with anyio.fail_after(10):
            for _ in range(3):
                jobs = [engine.submit(Script.of("hello")) for _ in range(5)]
                jobs[0].cancel()
                for job in jobs:
                    await job.result()
    assert len(decoder.threads) == 1
    assert threading.get_ident() not in decoder.threads


async def test_timings_count_from_submit_on_the_given_clock() -> None:
    seconds = [0.0]

    class TimedDecoder(ScriptedDecoder):
        def admit(self, request: Script) -> ScriptedSequence:
            seconds[0] += 10.0
            return super().admit(request)

        def advance(self, sequences: Sequence[ScriptedSequence]) -> Sequence[Step]:
            seconds[0] += 1.0
            return super().advance(sequences)

    async with Engine(TimedDecoder(), max_batch=1, clock=lambda: seconds[0]) as engine:
        first = engine.submit(Script(tokens=[(1, "a"), (2, "b")], prefill_steps=3))
        second = engine.submit(Script())
        with anyio.fail_after(5):
            early, late = (await first.result()).timings, (await second.result()).timings
    assert (early.queued, early.first_token, early.total) == (0.0, 14.0, 15.0)
    assert (late.queued, late.first_token, late.total) == (15.0, None, 26.0)


async def test_events_can_be_read_from_any_seq_and_after_the_engine_is_left() -> None:
    async with Engine(ScriptedDecoder()) as engine:
        job = engine.submit(Script.of("hello"))
        with anyio.fail_after(5):
            await job.result()
    whole = await history(job)
    for start in range(len(whole) + 2):
        assert [event async for event in job.events(start)] == whole[start:]
    with pytest.raises(ValueError, match="-3"):
        job.events(-3)


async def test_a_cancelled_wait_for_the_result_leaves_the_job_alone() -> None:
    gate = Gate()
    async with Engine(GatedDecoder(gate)) as engine:
        with gate:
            job = engine.submit(Script.of("hello"))
            with anyio.move_on_after(0):
                await job.result()
            gate.open()
            with anyio.fail_after(10):
                assert (await job.result()).text == "hello"


async def test_the_result_can_be_asked_for_many_times_by_many() -> None:
    results: list[str] = []

    async with Engine(ScriptedDecoder()) as engine:
        job = engine.submit(Script.of("hello"))

        async def ask() -> None:
            results.append((await job.result()).text)

        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(ask)
    assert results == ["hello"] * 5


async def test_a_failed_job_has_no_result() -> None:
    async with Engine(ScriptedDecoder()) as engine:
        job = engine.submit(Script(admit_error=OSError("no weights")))
        with anyio.fail_after(5), pytest.raises(GenerationFailed):
            await job.result()
