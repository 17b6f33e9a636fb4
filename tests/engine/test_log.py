"""Logs lose nothing, cursors start anywhere, and a bounded log says what it dropped."""

from __future__ import annotations

import anyio
import pytest

from engine import JobQueued, SubscriberLagged
from engine.event_log import YIELD_EVERY, Cursor, EventLog
from engine.events import Event

pytestmark = pytest.mark.anyio


def event(seq: int) -> Event:
    return JobQueued(job_id="job-1", seq=seq, at=0.0)


def filled(count: int, capacity: int | None = None) -> EventLog:
    log = EventLog(capacity)
    for seq in range(count):
        log.append(event(seq))
    return log


async def seqs(cursor: Cursor) -> list[int]:
    with anyio.fail_after(5):
        return [found.seq async for found in cursor]


@pytest.mark.parametrize("start", [0, 1, 99, 100, 250])
async def test_a_late_cursor_starts_anywhere(start: int) -> None:
    log = filled(100)
    log.close()
    assert await seqs(Cursor(log, start)) == list(range(start, 100))


async def test_a_cursor_cannot_start_before_the_first_event() -> None:
    with pytest.raises(ValueError, match="-1"):
        Cursor(EventLog(), -1)


async def test_an_ended_cursor_stays_ended() -> None:
    log = filled(1)
    log.close()
    cursor = Cursor(log, 0)
    assert await seqs(cursor) == [0]
    with pytest.raises(StopAsyncIteration):
        await anext(cursor)


async def test_a_waiting_cursor_gets_what_is_appended_later() -> None:
    log = EventLog()
    cursor = Cursor(log, 0)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:

            async def write() -> None:
                for seq in range(5):
                    log.append(event(seq))
                    await anyio.lowlevel.checkpoint()
                log.close()

            tasks.start_soon(write)
            assert await seqs(cursor) == [0, 1, 2, 3, 4]


async def test_a_cancelled_wait_loses_no_event() -> None:
    log = EventLog()
    cursor = Cursor(log, 0)
    with anyio.move_on_after(0):
        await anext(cursor)
    log.append(event(0))
    log.close()
    assert await seqs(cursor) == [0]


async def test_reading_what_is_already_there_lets_other_tasks_run() -> None:
    log = filled(3 * YIELD_EVERY)
    log.close()
    seen = 0
    seen_at_turns: list[int] = []
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:

            async def other() -> None:
                while seen < 3 * YIELD_EVERY:
                    seen_at_turns.append(seen)
                    await anyio.lowlevel.checkpoint()

            tasks.start_soon(other)
            async for _ in Cursor(log, 0):
                seen += 1
    assert any(0 < seen < 3 * YIELD_EVERY for seen in seen_at_turns)


async def test_a_bounded_log_holds_the_newest_events_only() -> None:
    log = filled(1000, capacity=10)
    assert [found.seq for found in log.snapshot()] == list(range(990, 1000))
    assert len(log._slots) == 10


async def test_a_lagging_cursor_is_told_how_many_it_missed_and_goes_on() -> None:
    log = filled(3, capacity=10)
    cursor = Cursor(log, 1)
    for seq in range(3, 25):
        log.append(event(seq))
    log.close()
    with pytest.raises(SubscriberLagged, match="14") as caught:
        await anext(cursor)
    assert caught.value.missed == 14
    assert await seqs(cursor) == list(range(15, 25))


@pytest.mark.parametrize("number", [-1, 4, 15])
async def test_an_event_that_is_not_held_is_an_index_error(number: int) -> None:
    with pytest.raises(IndexError, match=str(number)):
        filled(15, capacity=10)[number]
