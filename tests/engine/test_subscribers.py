"""Subscribers of all jobs and of single ones: everybody gets everything, and nobody slows anybody."""

from __future__ import annotations

import anyio
import pytest

from engine import Engine, SubscriberLagged
from engine.engine import FEED_CAPACITY
from engine.events import TERMINAL_EVENTS, Event
from engine.testing import Gate, GatedDecoder, Script, ScriptedDecoder, check_history

pytestmark = pytest.mark.anyio


async def test_a_subscriber_of_all_jobs_sees_each_job_whole() -> None:
    async with Engine(ScriptedDecoder(), max_batch=3) as engine:
        feed = engine.subscribe()
        jobs = [engine.submit(Script.of("x" * length)) for length in range(1, 9)]
        with anyio.fail_after(10):
            for job in jobs:
                await job.result()
    seen = [event async for event in feed]
    for job in jobs:
        mine = [event for event in seen if event.job_id == job.id]
        check_history(mine)
        assert mine == [event async for event in job.events()]


async def test_a_subscription_begins_when_it_is_made() -> None:
    async with Engine(ScriptedDecoder()) as engine:
        with anyio.fail_after(5):
            await engine.submit(Script.of("before")).result()
            feed = engine.subscribe()
            after = engine.submit(Script.of("after"))
            await after.result()
    assert {event.job_id async for event in feed} == {after.id}


async def test_ten_followers_of_one_job_all_see_all_of_it() -> None:
    seen: list[list[Event]] = []
    async with Engine(ScriptedDecoder(), slice_ms=0) as engine:
        job = engine.submit(Script.of("hello" * 20))

        async def follow() -> None:
            seen.append([event async for event in job.events()])

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                for _ in range(10):
                    tasks.start_soon(follow)
    assert len(seen) == 10
    check_history(seen[0])
    assert all(events == seen[0] for events in seen)


async def test_stalled_and_vanished_subscribers_slow_nobody() -> None:
    async with Engine(ScriptedDecoder()) as engine:
        job = engine.submit(Script.of("x" * 500))
        stalled, stalled_feed = job.events(), engine.subscribe()
        with anyio.fail_after(10):
            await anext(stalled)
            async for _ in job.events():
                break  # and never comes back
            assert len((await job.result()).token_ids) == 500
    assert [event.seq async for event in stalled] == list(range(1, 503))
    assert [event.seq async for event in stalled_feed] == list(range(1, 503))


async def test_a_subscriber_of_all_jobs_that_stalls_too_long_is_told_what_it_missed() -> None:
    length = FEED_CAPACITY + 100
    async with Engine(ScriptedDecoder()) as engine:
        feed = engine.subscribe()
        job = engine.submit(Script(tokens=[(1, "x")] * length, tokens_a_step=50))
        with anyio.fail_after(20):
            await job.result()
    published = length + 3
    with pytest.raises(SubscriberLagged) as caught:
        await anext(feed)
    assert caught.value.missed == published - FEED_CAPACITY
    rest = [event async for event in feed]
    assert [event.seq for event in rest] == list(range(published - FEED_CAPACITY, published))
    assert isinstance(rest[-1], TERMINAL_EVENTS)
    # The job's own log has kept everything.
    check_history([event async for event in job.events()])


async def test_a_first_token_is_published_while_the_reply_goes_on() -> None:
    gate = Gate()
    async with Engine(GatedDecoder(gate), slice_ms=1e9) as engine:
        with gate, anyio.fail_after(10):
            job = engine.submit(Script.of("hello"))
            gate.allow(1)
            first = await anext(job.events(2))
            assert type(first).__name__ == "TokenGenerated"


async def test_a_subscription_is_an_iterator_object_that_can_be_dropped_anywhere() -> None:
    async with Engine(ScriptedDecoder()) as engine:
        job = engine.submit(Script.of("hello"))
        cursor = job.events()
        assert aiter(cursor) is cursor
        with anyio.fail_after(5):
            async for event in cursor:
                if event.seq == 2:
                    break
            assert [event.seq async for event in cursor] == [3, 4, 5, 6, 7]
