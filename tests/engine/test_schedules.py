"""Seeded random schedules of submits, cancels and failures: in any order, every job keeps every promise."""

from __future__ import annotations

import random

import anyio
import pytest

from engine import Engine, JobState
from engine.job import Job
from engine.testing import Script, ScriptedDecoder, check_history

pytestmark = pytest.mark.anyio


def random_script(chance: random.Random) -> Script:
    fault = chance.choice(["none"] * 6 + ["admit", "step", "release"])
    return Script(
        tokens=[(n, str(n)) for n in range(chance.randrange(30))],
        prefill_steps=chance.randrange(3),
        tokens_a_step=chance.randint(1, 3),
        admit_error=OSError("admit") if fault == "admit" else None,
        step_error=OSError("step") if fault == "step" else None,
        release_error=OSError("release") if fault == "release" else None,
    )


async def play(chance: random.Random) -> None:
    decoder = ScriptedDecoder()
    jobs: list[tuple[Job, Script]] = []
    max_batch = chance.randint(1, 4)
    async with Engine(decoder, max_batch=max_batch, slice_ms=chance.choice([0, 0.1, 5])) as engine:
        for _ in range(chance.randrange(40)):
            act = chance.choice(["submit", "cancel", "glance", "yield"])
            if act == "submit":
                script = random_script(chance)
                limits = {
                    "deadline": chance.choice([None, None, 0.0, 0.002]),
                    "queue_deadline": chance.choice([None, 0.01]),
                }
                jobs.append(
                    (engine.submit(script, **limits, cancel_when_abandoned=chance.random() < 0.3), script)
                )
            elif act == "cancel" and jobs:
                chance.choice(jobs)[0].cancel()
            elif act == "glance" and jobs:
                chance.choice(jobs)[0].events().close()
            else:
                await anyio.lowlevel.checkpoint()
        if chance.random() < 0.5:
            await engine.drain()
    assert decoder.live == []
    assert dict(engine.jobs) == {}
    assert max(map(len, decoder.batches), default=0) <= max_batch
    for job, script in jobs:
        check_history([event async for event in job.events()])
        if job.state is not JobState.FAILED:
            result = await job.result()
            assert script.text.startswith(result.text)
            assert result.reason == "cancelled" or result.text == script.text


@pytest.mark.parametrize("seed", range(60))
async def test_a_random_schedule_keeps_every_promise(seed: int) -> None:
    with anyio.fail_after(10):
        await play(random.Random(seed))


@pytest.mark.parametrize("turns", range(30))
async def test_a_job_cancelled_after_any_number_of_turns_never_runs_to_its_end(turns: int) -> None:
    async with Engine(ScriptedDecoder()) as engine:
        job = engine.submit(Script.of("a" * 50_000))
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()
        job.cancel()
        with anyio.fail_after(10):
            assert (await job.result()).reason == "cancelled"
