"""Random schedules against every promise of the engine: thousands of them, each from one seed.

    python -m tests.engine.simulation [--schedules 10000] [--backend asyncio|trio] [--seed 0] [--thread]

A schedule is a small engine and some dozens of random acts: jobs with and without deadlines, cancels,
followers that stall, vanish or come late, failures of one job and of all, time that passes, draining, and one
of four ways of leaving. Afterwards everything that the engine promises is checked. The first broken promise
ends the run with exit status 1 and the command that repeats it. With --thread the engine has its real compute
thread instead of one that does on the event loop what the seed says: other interleavings, none repeatable.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel

from engine import Engine, EngineClosed, EngineFull, Job, JobFailed, JobState, TokenGenerated
from engine.event_log import Cursor
from engine.events import Event
from engine.testing import check_history
from tests.engine.simulated import Clock, InlineCompute, NumberedScript, SimulatedDecoder, random_script

WAYS_OUT = ("leave", "drain", "error", "cancelled host")
PATIENCE = 20.0  # seconds of the real clock until a schedule counts as stuck


class BlockFailedError(Exception):
    """Leaves the engine's block."""


class Schedule:
    """One run: what was done, and what was seen of it."""

    def __init__(
        self, seed: int, engine_type: type[Engine[Any, Any]] = Engine, *, thread: bool = False
    ) -> None:
        self.chance = chance = random.Random(seed)
        self.clock = Clock()
        self.decoder = SimulatedDecoder(self.clock, chance)
        self.max_batch, self.max_queue = chance.randint(1, 5), chance.randint(1, 8)
        self.compute = InlineCompute(chance)
        self.engine = engine_type(
            self.decoder, max_batch=self.max_batch, max_queue=self.max_queue, clock=self.clock,
            slice_ms=chance.choice([0, 1, 5, 1e6]), compute=None if thread else self.compute,
        )  # fmt: skip
        self.way_out = chance.choice(WAYS_OUT)
        self.jobs: list[tuple[Job, NumberedScript]] = []
        self.due: dict[str, tuple[float, float]] = {}  # by job: its start and its end
        self.may_be_abandoned: set[str] = set()
        self.rejected = 0
        self.asked: dict[
            str, int
        ] = {}  # by job: the steps there were when it was first asked to be cancelled
        self.followed: list[tuple[Job, int, list[Event]]] = []  # with where it began and what was seen

    async def play(self) -> None:
        """Do everything, then check everything; `AssertionError` for a broken promise."""
        before = {task.id for task in anyio.get_running_tasks()}
        async with anyio.create_task_group() as self.followers:
            with suppress(BlockFailedError), anyio.CancelScope() as self.host:
                async with self.engine:
                    self.feed = self.engine.subscribe()
                    await self._live()
            self.followers.cancel_scope.cancel()  # some would stall permanently
        left = {task.id for task in anyio.get_running_tasks()} - before
        assert not left, f"{len(left)} task(s) are left"
        await self._check()

    async def _live(self) -> None:
        for _ in range(self.chance.randrange(60)):
            await self._act()
        if self.way_out == "drain":
            await self.engine.drain()
            assert not self.engine.jobs, "a drained engine has no jobs"
            assert all(job.state.is_terminal for job, _ in self.jobs), "drained jobs have ended"
        if self.way_out == "cancelled host":
            self.host.cancel()
            await anyio.lowlevel.checkpoint()
        if self.way_out == "error":
            raise BlockFailedError

    async def _act(self) -> None:
        chance, act = self.chance, self.chance.random()
        if act < 0.4:
            self._submit()
        elif act < 0.5 and self.jobs:
            job, _ = chance.choice(self.jobs)
            if not job.state.is_terminal:
                self.asked.setdefault(job.id, len(self.decoder.steps))
            job.cancel()
        elif act < 0.65 and self.jobs:
            self.followers.start_soon(self._follow, chance.choice(self.jobs)[0])
        elif act < 0.7 and self.jobs:
            chance.choice(self.jobs)[0].events().close()
        elif act < 0.75:
            self.clock.go_on(chance.random())
        else:
            for _ in range(chance.randrange(20)):
                await anyio.lowlevel.checkpoint()

    def _submit(self) -> None:
        chance = self.chance
        script = random_script(chance, number=len(self.jobs))
        deadline, queue_deadline = (chance.choice([None, None, chance.random()]) for _ in range(2))
        abandonable = chance.random() < 0.3
        try:
            job = self.engine.submit(
                script, deadline=deadline, queue_deadline=queue_deadline, cancel_when_abandoned=abandonable
            )
        except EngineFull:
            self.rejected += 1
            assert len(self.engine.jobs) >= self.max_queue, "only a full queue refuses"
            return
        now, never = self.clock.now, float("inf")
        starts, ends = (never if s is None else now + s for s in (queue_deadline, deadline))
        self.due[job.id] = (starts, ends)
        if abandonable:
            self.may_be_abandoned.add(job.id)
        self.jobs.append((job, script))

    async def _follow(self, job: Job) -> None:
        """Read on from anywhere, and at any event continue, stall permanently, or vanish."""
        start, nature = self.chance.randrange(4), self.chance.random()
        seen: list[Event] = []
        self.followed.append((job, start, seen))
        with job.events(start) as cursor:
            async for event in cursor:
                seen.append(event)
                fate = self.chance.random()
                if nature < 0.3 and fate < 0.1:
                    await anyio.sleep_forever()
                if 0.3 <= nature < 0.6 and fate < 0.1:
                    return

    async def _check(self) -> None:
        assert self.decoder.live == [], "every sequence is released"
        assert not self.engine.jobs, "no job is left"
        assert not self.compute.running, "the compute thread has ended"
        assert not self.compute.calls, "no slice is left"
        assert all(len(step) <= self.max_batch for step in self.decoder.steps), "the batch keeps its size"
        admitted = [script.number for script in self.decoder.admitted if isinstance(script, NumberedScript)]
        assert admitted == sorted(set(admitted)), "jobs start first come first served, once"
        histories = {job.id: await _read(job.events()) for job, _ in self.jobs}
        for job, script in self.jobs:
            check_history(histories[job.id])
            self._check_reply(job, script, histories[job.id])
        for job, start, seen in self.followed:
            assert seen == histories[job.id][start : start + len(seen)], "a follower sees all, in order"
        self._check_feed(await _read(self.feed), histories)
        self._check_statistics(histories)
        try:
            self.engine.submit(random_script(self.chance, 0))
        except EngineClosed:
            return
        raise AssertionError("an engine that was left takes no jobs")

    def _check_reply(self, job: Job, script: NumberedScript, history: Sequence[Event]) -> None:
        said = [(event.token_id, event.text) for event in history if isinstance(event, TokenGenerated)]
        assert said == list(script.tokens[: len(said)]), f"{job.id} says what its script says"
        end = history[-1]
        state = job.state
        if job.id in self.asked:
            later = self.decoder.steps[self.asked[job.id] :]
            steps = sum(script.number in step for step in later)
            assert steps <= 1, f"{job.id} took {steps} steps after it was cancelled"
        late = [began > self.due[job.id][1] for began in self.decoder.began]
        steps = sum(
            script.number in step for step, is_late in zip(self.decoder.steps, late, strict=True) if is_late
        )
        assert steps <= 1, f"{job.id} took {steps} steps after its deadline"
        if isinstance(end, JobFailed):
            together = script.number in self.decoder.failed
            own = script.admit_error or script.step_error or script.release_error
            assert together or own, f"{job.id} fails for a reason"
            assert end.scope == ("batch" if together else "job"), f"{job.id} says who failed"
        elif state is JobState.DONE:
            assert len(said) == len(script.tokens), f"{job.id} is whole when done"
            assert script.number not in self.decoder.failed, f"{job.id} is not done in a batch that failed"
        else:
            self._check_cancelled(job, end)

    def _check_cancelled(self, job: Job, end: Any) -> None:
        possible = {
            "requested": job.id in self.asked,
            "deadline": end.at >= min(self.due[job.id]),
            "abandoned": job.id in self.may_be_abandoned,
            "closing": self.way_out != "drain",
        }
        assert possible[end.cause], f"{job.id} is cancelled for a reason, not {end.cause!r}"

    def ends(self) -> Counter[str]:
        """What there was, for a person to see that all of it was tried."""
        counts = Counter(job.state.value for job, _ in self.jobs)
        counts.update(
            f"cancelled: {job._record.cancel_cause}"
            for job, _ in self.jobs
            if job.state is JobState.CANCELLED
        )
        counts.update(
            {f"left by {self.way_out}": 1, "rejected": self.rejected, "steps": len(self.decoder.steps)}
        )
        return counts

    def _check_feed(self, feed: Sequence[Event], histories: dict[str, list[Event]]) -> None:
        by_job: dict[str, list[Event]] = {job_id: [] for job_id in histories}
        for event in feed:
            by_job[event.job_id].append(event)
        assert by_job == histories, "a subscriber of all jobs sees all of each"

    def _check_statistics(self, histories: dict[str, list[Event]]) -> None:
        numbers = self.engine.statistics()
        ends = Counter(job.state for job, _ in self.jobs)
        assert (numbers.queued, numbers.running, numbers.submitted) == (0, 0, len(self.jobs)), (
            "all are counted"
        )
        assert (numbers.done, numbers.cancelled, numbers.failed, numbers.rejected) == (
            ends[JobState.DONE], ends[JobState.CANCELLED], ends[JobState.FAILED], self.rejected,
        ), "every end is counted"  # fmt: skip
        tokens = sum(isinstance(event, TokenGenerated) for history in histories.values() for event in history)
        assert numbers.tokens == tokens, "every token is counted"
        assert numbers.steps == len(self.decoder.steps), "every step is counted"


async def _read(cursor: Cursor) -> list[Event]:
    return [event async for event in cursor]


async def simulate(
    seed: int, engine_type: type[Engine[Any, Any]] = Engine, *, thread: bool = False
) -> Schedule:
    """Play one schedule; `AssertionError` for a broken promise, a stuck schedule included."""
    schedule = Schedule(seed, engine_type, thread=thread)
    try:
        with anyio.fail_after(PATIENCE):
            await schedule.play()
    except TimeoutError:
        raise AssertionError(f"broken: everything ends (stuck for {PATIENCE} seconds)") from None
    return schedule


def main(argv: Sequence[str] | None = None, engine_type: type[Engine[Any, Any]] = Engine) -> int:
    """Play many; 1 after a broken promise."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.engine.simulation", description="Random schedules."
    )
    parser.add_argument("--schedules", type=int, default=10_000)
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    parser.add_argument("--seed", type=int, default=0, help="of the first schedule; the next has the next")
    parser.add_argument("--thread", action="store_true", help="a real compute thread: nothing is repeatable")
    flags = parser.parse_args(argv)
    counts: Counter[str] = Counter()
    began = time.perf_counter()
    for seed in range(flags.seed, flags.seed + flags.schedules):
        if flags.backend == "trio":
            _make_trio_repeatable(seed)
        try:
            play = partial(simulate, seed, engine_type, thread=flags.thread)
            schedule = anyio.run(play, backend=flags.backend)
            counts.update(schedule.ends())
        except BaseException as error:
            repeat = (
                f"python -m tests.engine.simulation --schedules 1 --backend {flags.backend} --seed {seed}"
            )
            print(f"seed {seed} on {flags.backend}: {error}\nagain: {repeat}", file=sys.stderr)
            if isinstance(error, AssertionError):
                return 1
            raise
    last, took = flags.seed + flags.schedules - 1, time.perf_counter() - began
    print(
        f"{flags.schedules:,} schedules on {flags.backend}, seeds {flags.seed} to {last}: "
        f"no broken promise, {took:.0f} s"
    )
    print(", ".join(f"{name} {count:,}" for name, count in sorted(counts.items())))
    return 0


def _make_trio_repeatable(seed: int) -> None:
    """Trio shuffles its tasks on purpose; here one seed must give one history."""
    from trio._core import _run  # noqa: PLC0415

    _run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[attr-defined]
    _run._r.seed(seed)


if __name__ == "__main__":
    sys.exit(main())
