"""Random schedules, a few of those that `python -m tests.engine.simulation` plays, and what it must catch."""

from __future__ import annotations

from itertools import count
from typing import Any

import anyio
import pytest

from engine import Engine
from engine.batch import BatchEvent, Decoded
from engine.job import Job
from tests.engine import simulation


@pytest.mark.anyio
@pytest.mark.parametrize("seed", range(50))
async def test_a_schedule_keeps_every_promise(seed: int) -> None:
    await simulation.simulate(seed)


@pytest.mark.anyio
@pytest.mark.parametrize("seed", range(100, 115))
async def test_a_schedule_on_a_real_thread_keeps_every_promise(seed: int) -> None:
    await simulation.simulate(seed, thread=True)


def test_one_seed_gives_one_history() -> None:
    def history() -> list[str]:
        schedule = anyio.run(simulation.simulate, 5, backend="asyncio")
        return [repr(job) for job, _ in schedule.jobs] + [str(step) for step in schedule.decoder.steps]

    assert len(history()) > 20
    assert history() == history()


class ForgetfulEngine(Engine[Any, Any]):
    """Loses what one step decoded."""

    decoded = 0

    def _publish(self, event: BatchEvent) -> None:
        self.decoded += isinstance(event, Decoded)
        if not (isinstance(event, Decoded) and self.decoded == 5):
            super()._publish(event)


class LosingEngine(Engine[Any, Any]):
    """Loses one event of a job, and numbers those behind it as if it had never been."""

    def submit(self, request: Any, **limits: Any) -> Job:
        job = super().submit(request, **limits)
        if job.id == "job-3":
            record = job._record
            publish, events = record._publish, count(1)
            record._publish = lambda event: None if next(events) == 3 else publish(event)
        return job


class UnfairEngine(Engine[Any, Any]):
    """The last come is the first served."""

    def submit(self, request: Any, **limits: Any) -> Job:
        job = super().submit(request, **limits)
        self._waiting.move_to_end(job.id, last=False)
        return job


class DeafEngine(Engine[Any, Any]):
    """Does not hear of cancels before the job has ended."""

    def _cancel(self, record: Any, cause: Any) -> None:
        self._batch.leave = lambda job_id: None
        super()._cancel(record, cause)


class TimelessEngine(Engine[Any, Any]):
    """Has no idea of deadlines."""

    def submit(self, request: Any, **limits: Any) -> Job:
        return super().submit(request, cancel_when_abandoned=limits["cancel_when_abandoned"])


@pytest.mark.parametrize(
    ("engine_type", "broken"),
    [
        (ForgetfulEngine, "says what its script says|whole when done"),
        (LosingEngine, "broken"),
        (UnfairEngine, "first come first served"),
        (DeafEngine, "steps after"),
        (TimelessEngine, "steps after its deadline"),
    ],
)
def test_a_planted_fault_is_caught(engine_type: type[Engine[Any, Any]], broken: str) -> None:
    async def play() -> None:
        for seed in range(60):
            await simulation.simulate(seed, engine_type)

    with pytest.raises(AssertionError, match=broken):
        anyio.run(play, backend="asyncio")


def test_a_broken_promise_ends_the_command_with_the_way_to_repeat_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["--schedules", "50", "--seed", "7"]
    assert simulation.main(flags, UnfairEngine) == 1
    told = capsys.readouterr().err
    assert "first come first served" in told
    seed = told.split("--seed ")[1].strip()
    assert simulation.main(["--schedules", "1", "--seed", seed], UnfairEngine) == 1


def test_the_command_tells_its_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    assert simulation.main(["--schedules", "3", "--seed", "40", "--backend", "trio"]) == 0
    assert "3 schedules on trio, seeds 40 to 42: no broken promise" in capsys.readouterr().out
