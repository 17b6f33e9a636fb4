"""One contract, whatever the decoder does: every promise about jobs, over decoders that keep none.

`scripted` answers at once; `gated` is held before each step until the event loop lets it go on; `broken`
fails its whole batch at every fifth step; `faulty` fails single sequences in all the ways there are; `slow`
takes seconds for a step, on the clock that the engine goes by.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import anyio
import pytest

from engine import Engine, EngineClosed, JobCancelled, JobDone, JobFailed, JobState, Step
from engine.events import Event
from engine.job import Job
from engine.testing import Gate, GatedDecoder, Script, ScriptedDecoder, ScriptedSequence, check_history

pytestmark = pytest.mark.anyio

SCRIPTS = [Script.of(chr(97 + n) * (3 + 5 * n % 17)) for n in range(12)]
LONG = Script.of("z" * 5000)


class BrokenDecoder(ScriptedDecoder):
    """Fails as a whole at every fifth step."""

    def advance(self, sequences: Sequence[ScriptedSequence]) -> Sequence[Step]:
        steps = super().advance(sequences)
        if len(self.batches) % 5 == 0:
            raise OSError("no power")
        return steps


class FaultyDecoder(ScriptedDecoder):
    """Fails every second script in one of the ways in which a single one can fail."""

    def admit(self, request: Script) -> ScriptedSequence:
        fault, number = OSError("no luck"), len(self.admitted)
        faults = [{}, {"admit_error": fault}, {}, {"step_error": fault}, {}, {"release_error": fault}]
        changes: dict[str, Any] = faults[number % len(faults)]
        return super().admit(replace(request, **changes))


class SlowDecoder(ScriptedDecoder):
    """Takes two seconds for a step."""

    now = 0.0

    def clock(self) -> float:
        return self.now

    def advance(self, sequences: Sequence[ScriptedSequence]) -> Sequence[Step]:
        self.now += 2.0
        return super().advance(sequences)


class OpenedGateDecoder(GatedDecoder):
    """Each step waits until the event loop has been seen to run."""

    def __init__(self) -> None:
        self.gate = Gate()
        super().__init__(self.gate)


DECODERS: dict[str, Callable[[], ScriptedDecoder]] = {
    "scripted": ScriptedDecoder,
    "gated": OpenedGateDecoder,
    "broken": BrokenDecoder,
    "faulty": FaultyDecoder,
    "slow": SlowDecoder,
}


class Place:
    """An engine over one of the decoders, and a task that opens its gate step by step, if it has one."""

    def __init__(self, decoder: ScriptedDecoder) -> None:
        self.decoder = decoder
        self.jobs: list[tuple[Job, Script]] = []
        clock = decoder.clock if isinstance(decoder, SlowDecoder) else time.monotonic
        self.engine = Engine(decoder, max_batch=3, clock=clock)

    def submit(self, *scripts: Script, **limits: Any) -> list[Job]:
        jobs = [self.engine.submit(script, **limits) for script in scripts]
        self.jobs += zip(jobs, scripts, strict=True)
        return jobs

    async def open_gate(self) -> None:
        if isinstance(self.decoder, OpenedGateDecoder):
            with self.decoder.gate:
                while True:
                    self.decoder.gate.allow(1)
                    await anyio.lowlevel.checkpoint()

    async def check(self) -> None:
        """After the engine is left: every job ended once, said nothing wrong, and nothing is left of it."""
        for job, script in self.jobs:
            events = [event async for event in job.events()]
            check_history(events)
            text = "".join(getattr(event, "text", "") for event in events)
            assert script.text.startswith(text)
            assert text == script.text or not isinstance(events[-1], JobDone)
            if not isinstance(self.decoder, BrokenDecoder | FaultyDecoder):
                assert job.state is not JobState.FAILED
        assert self.decoder.live == []
        assert dict(self.engine.jobs) == {}
        assert max(map(len, self.decoder.batches), default=0) <= 3
        assert len(self.decoder.threads) <= 1
        assert not [thread for thread in threading.enumerate() if thread.name == "engine-compute"]
        numbers = self.engine.statistics()
        assert numbers.done + numbers.cancelled + numbers.failed == numbers.submitted == len(self.jobs)


@pytest.fixture(params=DECODERS)
def place(request: pytest.FixtureRequest) -> Place:
    return Place(DECODERS[request.param]())


async def in_place(place: Place, act: Callable[[], Any]) -> None:
    """Act inside of the engine's block, with the gate being opened, and check everything afterwards."""
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(place.open_gate)
            async with place.engine:
                await act()
            tasks.cancel_scope.cancel()
    await place.check()


async def test_more_jobs_than_places_all_end(place: Place) -> None:
    async def act() -> None:
        place.submit(*SCRIPTS)
        await place.engine.drain()

    await in_place(place, act)
    assert [script.text for script in place.decoder.admitted] == [script.text for script in SCRIPTS]


async def test_a_failed_job_says_why_and_the_next_ones_are_served(place: Place) -> None:
    async def act() -> None:
        for job in place.submit(*SCRIPTS):
            end = [event async for event in job.events()][-1]
            if isinstance(end, JobFailed):
                assert end.kind == "OSError"
                assert end.scope == ("batch" if isinstance(place.decoder, BrokenDecoder) else "job")
        assert place.engine.statistics().done > 0
        assert len(place.decoder.admitted) == len(SCRIPTS)

    await in_place(place, act)


@pytest.mark.parametrize("moment", range(6))
async def test_cancelled_at_any_moment_a_job_ends_once(place: Place, moment: int) -> None:
    async def act() -> None:
        jobs = place.submit(LONG, *SCRIPTS[:4], LONG)
        for _ in range(3 * moment):
            await anyio.lowlevel.checkpoint()
        for job in jobs[:1] + jobs[4:]:
            job.cancel()
            job.cancel()
        await place.engine.drain()
        jobs[0].cancel()
        assert jobs[0].state in {JobState.CANCELLED, JobState.FAILED}

    await in_place(place, act)


async def test_all_that_is_left_when_the_block_is_left_is_cancelled(place: Place) -> None:
    async def act() -> None:
        jobs = place.submit(*[LONG] * 8)
        await anext(jobs[0].events(1))

    await in_place(place, act)
    for job, _ in place.jobs:
        end = [event async for event in job.events()][-1]
        assert isinstance(end, JobFailed) or (isinstance(end, JobCancelled) and end.cause == "closing")


async def test_a_deadline_ends_whatever_has_not_ended(place: Place) -> None:
    async def act() -> None:
        place.submit(*[LONG] * 3, *SCRIPTS[:3], deadline=0.02)
        await place.engine.drain()

    await in_place(place, act)
    ends = {(await _end(job)) for job, script in place.jobs if script is LONG}
    assert ends <= {"deadline", "failed"}


async def _end(job: Job) -> str | None:
    if job.state is JobState.FAILED:
        return "failed"
    return (await job.result()).cause


async def test_followers_from_any_offset_see_the_same(place: Place) -> None:
    seen: dict[int, list[Event]] = {}

    async def act() -> None:
        (job,) = place.submit(Script.of("hello" * 3))

        async def follow(start: int) -> None:
            seen[start] = [event async for event in job.events(start)]

        async with anyio.create_task_group() as followers:
            for start in range(6):
                followers.start_soon(follow, start)
        whole = [event async for event in job.events()]
        assert all(events == whole[start:] for start, events in seen.items())

    await in_place(place, act)


async def test_a_drained_engine_takes_no_more(place: Place) -> None:
    async def act() -> None:
        place.submit(*SCRIPTS[:4])
        await place.engine.drain()
        with pytest.raises(EngineClosed):
            place.submit(*SCRIPTS[:1])

    await in_place(place, act)
