"""The controls: the check that all engine tests use must reject every broken history."""

from __future__ import annotations

import dataclasses

import pytest

from engine import JobCancelled, JobDone, JobFailed, JobQueued, JobStarted, TokenGenerated
from engine.event_log import Cursor, EventLog
from engine.events import Event
from engine.job_state import JobRecord
from engine.testing import check_history


def whole(tokens: int = 3) -> list[Event]:
    """A correct history."""
    return [
        JobQueued(job_id="job-1", seq=0, at=1.0),
        JobStarted(job_id="job-1", seq=1, at=1.0),
        *(
            TokenGenerated(job_id="job-1", seq=2 + n, at=2.0, token_id=7, text="a", index=n)
            for n in range(tokens)
        ),
        JobDone(job_id="job-1", seq=2 + tokens, at=3.0, reason="stop", receipt={}),
    ]


def renumbered(events: list[Event]) -> list[Event]:
    """The same events with a gapless seq, so that only the other rules can object."""
    return [dataclasses.replace(event, seq=seq) for seq, event in enumerate(events)]


def test_a_whole_history_passes() -> None:
    check_history(whole())
    check_history(whole(tokens=0))


def test_a_job_cancelled_in_the_queue_passes() -> None:
    check_history([whole()[0], JobCancelled(job_id="job-1", seq=1, at=1.0, cause="requested", receipt={})])


@pytest.mark.parametrize("lost", range(6))
def test_any_lost_event_is_caught(lost: int) -> None:
    events = whole()
    del events[lost]
    with pytest.raises(AssertionError, match="broken"):
        check_history(events)


@pytest.mark.parametrize("lost", range(6))
def test_any_lost_event_is_caught_even_if_the_rest_is_renumbered(lost: int) -> None:
    events = whole()
    del events[lost]
    if lost == 4:  # the last token: nothing but the script can tell that a shorter reply is wrong
        check_history(renumbered(events))
    else:
        with pytest.raises(AssertionError, match="broken"):
            check_history(renumbered(events))


def broken_histories() -> dict[str, list[Event]]:
    failed = JobFailed(job_id="job-1", seq=0, at=3.0, error="e", kind="E", scope="job")
    other_job = [*whole()[:2], dataclasses.replace(whole()[2], job_id="job-2"), *whole()[3:]]
    back_in_time = [*whole()[:-1], dataclasses.replace(whole()[-1], at=0.5)]
    return {
        "nothing": [],
        "two ends": renumbered([*whole(), failed]),
        "something after the end": renumbered([*whole(), whole()[2]]),
        "queued twice": renumbered([whole()[0], *whole()]),
        "started twice": renumbered([*whole()[:2], *whole()[1:]]),
        "a token twice": renumbered([*whole()[:3], *whole()[2:]]),
        "done without a start": renumbered([whole()[0], whole()[-1]]),
        "another job's event": other_job,
        "time runs backwards": back_in_time,
        "swapped": [*whole()[:2], whole()[3], whole()[2], *whole()[4:]],
    }


@pytest.mark.parametrize("name", broken_histories())
def test_a_broken_history_is_caught(name: str) -> None:
    with pytest.raises(AssertionError, match="broken"):
        check_history(broken_histories()[name])


class ForgetfulLog(EventLog):
    """Numbers every event and forgets the fourth."""

    def snapshot(self) -> list[Event]:
        return [event for number, event in enumerate(super().snapshot()) if number != 3]


class SkippingCursor(Cursor):
    """Steps over the fourth event."""

    async def __anext__(self) -> Event:
        if self.position == 3:
            self.position += 1
        return await super().__anext__()


def finished_record() -> JobRecord[str]:
    record = JobRecord(job_id="job-1", request="", at=0.0, feed=EventLog())
    record.start(0.0)
    record.add_tokens([(1, "a"), (2, "b"), (3, "c")], 1.0)
    record.finish("stop", {}, 2.0)
    return record


@pytest.mark.anyio
async def test_a_log_that_loses_an_event_is_caught() -> None:
    record = finished_record()
    check_history(record.log.snapshot())
    forgetful = ForgetfulLog()
    for event in record.log.snapshot():
        forgetful.append(event)
    with pytest.raises(AssertionError, match=r"seq is 0, 1, 2"):
        check_history(forgetful.snapshot())


@pytest.mark.anyio
async def test_a_cursor_that_skips_an_event_is_caught() -> None:
    log = finished_record().log
    check_history([event async for event in Cursor(log, 0)])
    with pytest.raises(AssertionError, match=r"seq is 0, 1, 2"):
        check_history([event async for event in SkippingCursor(log, 0)])
