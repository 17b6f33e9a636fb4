"""What bounds a job: the queue's length, deadlines, and somebody who follows it, if its submitter says so."""

from __future__ import annotations

import gc
import math
import random
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import anyio
import pytest

from engine import Engine, EngineFull, JobCancelled, JobState, Step
from engine.deadlines import Deadlines
from engine.job import Job
from engine.testing import Gate, GatedDecoder, Script, ScriptedDecoder, ScriptedSequence, check_history
from engine.worker import ComputeThread, Future

T = TypeVar("T")

pytestmark = pytest.mark.anyio

LONG = Script.of("a" * 1000)


class TickingDecoder(ScriptedDecoder):
    """A step takes a second on `clock`, or as many as told; at the gate, if there is one, no time goes by."""

    def __init__(self, gate: Gate | None = None, *, seconds: float = 1.0) -> None:
        super().__init__()
        self._gate = gate
        self._seconds = seconds
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    def advance(self, sequences: Sequence[ScriptedSequence]) -> Sequence[Step]:
        if self._gate is not None:
            self._gate.pass_through()
        self.now += self._seconds
        return super().advance(sequences)


class CountingThread(ComputeThread):
    """Counts the slices."""

    calls = 0

    def submit(self, function: Callable[[], T]) -> Future[T]:
        self.calls += 1
        return super().submit(function)


async def cause(job: Job) -> str | None:
    """Why a job was cancelled; its history is checked on the way."""
    with anyio.fail_after(10):
        events = [event async for event in job.events()]
        result = await job.result()
    check_history(events)
    assert result.cause == (events[-1].cause if isinstance(events[-1], JobCancelled) else None)
    return result.cause


# The queue.


async def test_a_full_queue_refuses_with_its_limit_and_makes_no_job() -> None:
    gate = Gate()
    async with Engine(GatedDecoder(gate), max_batch=2, max_queue=3) as engine:
        with gate:
            for _ in range(5):
                engine.submit(LONG)
            with pytest.raises(EngineFull, match=r"max_queue=3 .* larger max_queue") as caught:
                engine.submit(LONG)
            assert caught.value.limit == 3
            assert len(engine.jobs) == 5
            assert engine.statistics().rejected == 1


async def test_a_place_in_the_queue_is_free_again_once_a_job_has_ended() -> None:
    async with Engine(ScriptedDecoder(), max_batch=1, max_queue=1) as engine:
        first, second = engine.submit(Script.of("one")), engine.submit(Script.of("two"))
        with pytest.raises(EngineFull):
            engine.submit(LONG)
        with anyio.fail_after(5):
            await first.result()
            assert (await engine.submit(Script.of("three")).result()).text == "three"
            await second.result()


async def test_cancelling_a_queued_job_makes_room_at_once() -> None:
    async with Engine(ScriptedDecoder(), max_batch=1, max_queue=1) as engine:
        engine.submit(LONG)
        engine.submit(LONG).cancel()
        engine.submit(LONG)


# Deadlines.


async def test_a_running_job_past_its_deadline_is_cancelled_within_one_step() -> None:
    decoder = TickingDecoder()
    async with Engine(decoder, slice_ms=1e9, clock=decoder.clock) as engine:
        job = engine.submit(LONG, deadline=10.0)
        assert await cause(job) == "deadline"
        assert (await job.result()).text == "a" * 10
        assert decoder.live == []


async def test_the_others_of_the_batch_have_deadlines_of_their_own() -> None:
    decoder = TickingDecoder()
    async with Engine(decoder, slice_ms=1e9, clock=decoder.clock) as engine:
        jobs = [engine.submit(Script.of("a" * 50), deadline=seconds) for seconds in (30, None, 20, 100)]
        assert [await cause(job) for job in jobs] == ["deadline", None, "deadline", None]
        assert [len((await job.result()).text) for job in jobs] == [30, 50, 20, 50]


async def test_a_queued_job_past_its_deadline_never_reaches_the_decoder() -> None:
    decoder = TickingDecoder()
    async with Engine(decoder, max_batch=1, slice_ms=1e9, clock=decoder.clock) as engine:
        running, late = engine.submit(LONG), engine.submit(Script.of("late"), deadline=5.0)
        assert await cause(late) == "deadline"
        assert late.statistics().total == 5.0
        assert decoder.admitted == [LONG]
        running.cancel()


async def test_a_queue_deadline_ends_with_the_start() -> None:
    decoder = TickingDecoder()
    async with Engine(decoder, max_batch=1, slice_ms=1e9, clock=decoder.clock) as engine:
        first = engine.submit(Script.of("a" * 20), queue_deadline=5.0)
        second = engine.submit(Script.of("b"), queue_deadline=10.0)
        third = engine.submit(Script.of("c"), queue_deadline=30.0)
        assert [await cause(job) for job in (first, second, third)] == [None, "deadline", None]


async def test_a_reply_that_is_whole_at_its_deadline_is_done() -> None:
    decoder = TickingDecoder()
    async with Engine(decoder, clock=decoder.clock) as engine:
        assert await cause(engine.submit(Script.of("abc"), deadline=3.0)) is None


async def test_a_deadline_of_no_time_still_makes_a_job_with_an_end() -> None:
    decoder = TickingDecoder()
    async with Engine(decoder, clock=decoder.clock) as engine:
        assert await cause(engine.submit(LONG, deadline=0.0)) == "deadline"
    assert decoder.admitted == []


async def test_after_a_deadline_slices_are_as_long_as_before() -> None:
    """The time that has passed must not end the slices that follow."""
    decoder, compute = TickingDecoder(), CountingThread("counted")
    async with Engine(decoder, slice_ms=1e9, clock=decoder.clock, compute=compute) as engine:
        with anyio.fail_after(10):
            late, other = engine.submit(LONG, deadline=20.5), engine.submit(LONG)
            assert await cause(late) == "deadline"
            before = compute.calls
            await other.result()
    assert compute.calls - before <= 6


async def test_tokens_wait_five_milliseconds_unless_told_otherwise() -> None:
    decoder, compute = TickingDecoder(seconds=0.001), CountingThread("counted")
    async with Engine(decoder, clock=decoder.clock, compute=compute) as engine:
        with anyio.fail_after(10):
            await engine.submit(Script.of("x" * 501)).result()
    assert 100 <= compute.calls <= 110  # five steps of a millisecond in each


async def test_the_first_reason_to_cancel_is_the_one_that_is_told() -> None:
    gate = Gate()
    decoder = TickingDecoder(gate)
    async with Engine(decoder, slice_ms=1e9, clock=decoder.clock) as engine:
        with gate, anyio.fail_after(10):
            job = engine.submit(LONG, deadline=2.0)
            await gate.reached(1)
            job.cancel()
            decoder.now = 5.0
            gate.open()
            assert await cause(job) == "requested"


@pytest.mark.parametrize("limit", ["deadline", "queue_deadline"])
@pytest.mark.parametrize("seconds", [-1.0, float("nan")])
async def test_a_deadline_that_is_no_time_from_now_is_a_value_error(limit: str, seconds: float) -> None:
    async with Engine(ScriptedDecoder()) as engine:
        with pytest.raises(ValueError, match=rf"{limit} is a number of seconds.*{seconds!r}"):
            engine.submit(LONG, **{limit: seconds})  # pyright: ignore[reportArgumentType]
        assert dict(engine.jobs) == {}


def test_deadlines_of_jobs_that_have_ended_take_no_room() -> None:
    deadlines = Deadlines()
    for number in range(10_000):
        deadlines.set(f"job-{number}", at=0.0, queue=1e9, whole=1e9)
        deadlines.started(f"job-{number}")
        deadlines.ended(f"job-{number}")
    assert len(deadlines._heap) < 20
    assert deadlines._times == {}
    assert deadlines.next == float("inf")


def test_deadlines_come_due_in_order_each_job_once() -> None:
    chance, deadlines = random.Random(7), Deadlines()
    times: dict[str, list[float]] = {}
    for number in range(300):
        queue, whole = (chance.choice([None, chance.randrange(100)]) for _ in range(2))
        deadlines.set(f"job-{number}", at=1.0, queue=queue, whole=whole)
        times[f"job-{number}"] = [math.inf if each is None else 1.0 + each for each in (queue, whole)]
    for job_id in chance.sample(sorted(times), 100):
        if chance.random() < 0.5:
            deadlines.started(job_id)
            times[job_id][0] = math.inf
        else:
            deadlines.ended(job_id)
            times[job_id] = [math.inf]
    for now in range(120):
        earliest = {job_id: min(each) for job_id, each in times.items()}
        assert deadlines.next == min(earliest.values(), default=math.inf)
        due = deadlines.pop_due(now)
        assert sorted(due) == sorted(job_id for job_id, at in earliest.items() if at <= now)
        assert [earliest[job_id] for job_id in due] == sorted(earliest[job_id] for job_id in due)
        for job_id in due:
            del times[job_id]


# Abandoned jobs.


async def running_job(engine: Engine[Script, ScriptedSequence], gate: Gate) -> Job:
    """A job that is cancelled when abandoned and stands in its first step."""
    job = engine.submit(LONG, cancel_when_abandoned=True)
    await gate.reached(1)
    return job


async def test_a_job_is_cancelled_within_one_step_when_its_last_follower_leaves() -> None:
    gate = Gate()
    decoder = GatedDecoder(gate)
    async with Engine(decoder, slice_ms=1e9) as engine:
        with gate, anyio.fail_after(10):
            job = await running_job(engine, gate)
            with job.events() as first, job.events(2):
                await anext(first)
            gate.allow(1)  # the step in flight; there must be no other
            await job._record.ended.wait()
            assert len(decoder.batches) == 1
    assert await cause(job) == "abandoned"


async def test_a_queued_job_can_be_abandoned_too() -> None:
    gate = Gate()
    decoder = GatedDecoder(gate)
    async with Engine(decoder, max_batch=1) as engine:
        with gate, anyio.fail_after(10):
            await running_job(engine, gate)
            job = engine.submit(Script.of("never"), cancel_when_abandoned=True)
            job.events().close()
            gate.allow(1)
            await job._record.ended.wait()
            assert decoder.admitted == [LONG]
    assert await cause(job) == "abandoned"


async def test_a_job_goes_on_while_anybody_follows_and_before_anybody_does() -> None:
    async with Engine(ScriptedDecoder()) as engine:
        job = engine.submit(Script.of("hello"), cancel_when_abandoned=True)
        with anyio.fail_after(5):
            staying = job.events()
            job.events().close()
            assert len([event async for event in staying]) == 8
        unseen = engine.submit(Script.of("hello"), cancel_when_abandoned=True)
        with anyio.fail_after(5):
            await engine.drain()
        assert unseen.state is JobState.DONE


async def test_a_dropped_cursor_counts_like_a_closed_one() -> None:
    gate = Gate()
    async with Engine(GatedDecoder(gate)) as engine:
        with gate, anyio.fail_after(10):
            job = await running_job(engine, gate)
            cursor = job.events()
            del cursor
            gc.collect()
            gate.open()
            await job._record.ended.wait()
    assert await cause(job) == "abandoned"


async def test_a_cursor_can_be_dropped_on_any_thread() -> None:
    gate = Gate()
    async with Engine(GatedDecoder(gate)) as engine:
        with gate, anyio.fail_after(10):
            job = await running_job(engine, gate)
            other = threading.Thread(target=job.events().close)
            other.start()
            other.join()
            gate.open()
            await job._record.ended.wait()
    assert await cause(job) == "abandoned"


async def test_a_cancelled_wait_for_the_result_counts_as_leaving() -> None:
    gate = Gate()
    async with Engine(GatedDecoder(gate)) as engine:
        with gate, anyio.fail_after(10):
            job = await running_job(engine, gate)
            with anyio.move_on_after(0):
                await job.result()
            gate.open()
            await job._record.ended.wait()
    assert await cause(job) == "abandoned"


async def test_without_the_wish_nobody_is_counted() -> None:
    gate = Gate()
    async with Engine(GatedDecoder(gate)) as engine:
        with gate, anyio.fail_after(10):
            job = engine.submit(Script.of("hello"))
            await gate.reached(1)
            job.events().close()
            gate.open()
            assert await cause(job) is None


async def test_followers_that_leave_after_the_end_are_forgotten() -> None:
    async with Engine(ScriptedDecoder()) as engine:
        job = engine.submit(Script.of("hello"), cancel_when_abandoned=True)
        with anyio.fail_after(5):
            for _ in range(3):
                await job.result()
        assert not engine._left
    job.events().close()
    assert await cause(job) is None


async def test_a_closed_cursor_is_at_its_end() -> None:
    async with Engine(ScriptedDecoder()) as engine:
        job = engine.submit(Script.of("hello"))
        with job.events() as cursor:
            pass
        assert [event async for event in cursor] == []
        cursor.close()
