"""Leaving the engine, however it happens: every job ends, nothing is left running."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from pathlib import Path

import anyio
import pytest

from engine import Engine, EngineClosed, JobState
from engine.job import Job
from engine.testing import Gate, GatedDecoder, Script, ScriptedDecoder, ScriptedSequence, check_history

pytestmark = pytest.mark.anyio

LONG = Script.of("a" * 100_000)


def engine_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "engine-compute"]


async def check_cancelled(*jobs: Job) -> None:
    for job in jobs:
        with anyio.fail_after(5):
            check_history([event async for event in job.events()])
        assert job.state is JobState.CANCELLED


async def test_leaving_cancels_running_and_queued_jobs() -> None:
    decoder = ScriptedDecoder()
    async with Engine(decoder, max_batch=2) as engine:
        jobs = [engine.submit(LONG) for _ in range(5)]
        with anyio.fail_after(5):
            await anext(jobs[0].events(2))
    await check_cancelled(*jobs)
    assert dict(engine.jobs) == {}
    assert decoder.live == []


async def test_no_thread_is_left() -> None:
    before = threading.enumerate()
    async with Engine(ScriptedDecoder()) as engine:
        assert len(engine_threads()) == 1
        engine.submit(LONG)
        with anyio.fail_after(5):
            await engine.submit(Script.of("hello")).result()
    assert threading.enumerate() == before


async def test_an_idle_engine_closes() -> None:
    with anyio.fail_after(5):
        async with Engine(ScriptedDecoder()):
            await anyio.lowlevel.checkpoint()
        async with Engine(ScriptedDecoder()):
            pass
    assert engine_threads() == []


async def test_an_error_in_the_block_comes_out_as_it_is() -> None:
    jobs: list[Job] = []

    async def stumble() -> None:
        async with Engine(ScriptedDecoder()) as engine:
            jobs.append(engine.submit(LONG))
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await stumble()
    await check_cancelled(*jobs)


async def test_a_cancelled_host_ends_the_engine_and_every_job() -> None:
    decoder = ScriptedDecoder()
    jobs: list[Job] = []
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:

            async def host() -> None:
                async with Engine(decoder, max_batch=1) as engine:
                    jobs.extend(engine.submit(LONG) for _ in range(3))
                    await anext(jobs[0].events(2))
                    tasks.cancel_scope.cancel()
                    await anyio.sleep_forever()

            tasks.start_soon(host)
    await check_cancelled(*jobs)
    assert decoder.live == []
    assert engine_threads() == []


async def test_a_deadline_around_the_engine_waits_for_the_step_in_flight_only() -> None:
    gate = Gate()
    decoder = GatedDecoder(gate)
    jobs: list[Job] = []
    with anyio.fail_after(10), anyio.CancelScope() as deadline:
        async with Engine(decoder, slice_ms=1e9) as engine:
            with gate:
                jobs.append(engine.submit(LONG))
                gate.allow(5)
                await gate.reached(6)
                deadline.cancel()
                await anyio.lowlevel.checkpoint()
    assert deadline.cancelled_caught
    await check_cancelled(*jobs)
    assert len(decoder.batches) <= 7


async def test_a_cancelled_host_that_shields_its_block_still_has_a_working_engine() -> None:
    replies: list[str] = []
    with anyio.fail_after(10), anyio.CancelScope() as host:
        async with Engine(ScriptedDecoder()) as engine:
            host.cancel()
            with anyio.CancelScope(shield=True):
                await anyio.wait_all_tasks_blocked()
                replies.append((await engine.submit(Script.of("last words")).result()).text)
    assert replies == ["last words"]


async def test_entering_under_a_cancelled_host_leaves_nothing_behind() -> None:
    jobs: list[Job] = []
    with anyio.fail_after(10), anyio.CancelScope() as host:
        host.cancel()
        async with Engine(ScriptedDecoder()) as engine:
            jobs.append(engine.submit(LONG))
            await jobs[0].result()
    await check_cancelled(*jobs)
    assert engine_threads() == []


async def test_an_error_in_the_block_of_a_cancelled_host_is_not_lost() -> None:
    jobs: list[Job] = []

    async def stumble() -> None:
        async with Engine(ScriptedDecoder()) as engine:
            jobs.append(engine.submit(LONG))
            host.cancel()
            raise KeyError("mine")

    with anyio.fail_after(10), anyio.CancelScope() as host, pytest.raises(KeyError, match="mine"):
        await stumble()
    await check_cancelled(*jobs)


async def test_a_subscriber_task_ends_with_the_engine() -> None:
    seen: list[str] = []

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks, Engine(ScriptedDecoder()) as engine:

            async def follow() -> None:
                seen.extend([type(event).__name__ async for event in feed])

            feed = engine.subscribe()
            tasks.start_soon(follow)
            await engine.submit(Script.of("x")).result()
    assert seen == ["JobQueued", "JobStarted", "TokenGenerated", "JobDone"]


async def test_submitting_is_refused_before_entering_and_after_leaving() -> None:
    engine = Engine(ScriptedDecoder())
    with pytest.raises(EngineClosed, match="not entered"):
        engine.submit(LONG)
    async with engine:
        pass
    with pytest.raises(EngineClosed, match="closed"):
        engine.submit(LONG)


async def test_submitting_is_refused_while_leaving() -> None:
    gate = Gate()
    refused: list[EngineClosed] = []
    jobs: list[Job] = []

    async def late(engine: Engine[Script, ScriptedSequence]) -> None:
        with gate, anyio.fail_after(10):
            while jobs[0].state is not JobState.CANCELLING:
                await anyio.lowlevel.checkpoint()
            with pytest.raises(EngineClosed, match="closing") as caught:
                engine.submit(LONG)
            refused.append(caught.value)

    async with anyio.create_task_group() as tasks, Engine(GatedDecoder(gate)) as engine:
        jobs.append(engine.submit(LONG))
        with anyio.fail_after(10):
            await gate.reached(1)
        tasks.start_soon(late, engine)
    assert len(refused) == 1
    await check_cancelled(*jobs)


async def test_an_engine_is_entered_once() -> None:
    engine = Engine(ScriptedDecoder())
    async with engine:
        with pytest.raises(EngineClosed, match="entered once"):
            await engine.__aenter__()
    with pytest.raises(EngineClosed, match="entered once"):
        await engine.__aenter__()


async def test_two_engines_run_side_by_side() -> None:
    async with Engine(ScriptedDecoder()) as one, Engine(ScriptedDecoder()) as two:
        jobs = [one.submit(Script.of("one")), two.submit(Script.of("two"))]
        with anyio.fail_after(5):
            assert [(await job.result()).text for job in jobs] == ["one", "two"]


@pytest.mark.parametrize(
    ("option", "value"), [("max_batch", 0), ("slice_ms", -1), ("slice_ms", float("nan"))]
)
async def test_an_impossible_setting_is_a_value_error(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{option}.*{value!r}"):
        Engine(ScriptedDecoder(), **{option: value})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_native_asyncio_cancel_of_the_host_ends_every_job(anyio_backend: str) -> None:
    jobs: list[Job] = []
    started = asyncio.Event()

    async def host() -> None:
        async with Engine(ScriptedDecoder()) as engine:
            jobs.append(engine.submit(LONG))
            await anext(jobs[0].events(2))
            started.set()
            await asyncio.Event().wait()

    with anyio.fail_after(10):
        task = asyncio.create_task(host())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert task.cancelled()
    await check_cancelled(*jobs)
    assert engine_threads() == []


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_second_native_cancel_while_leaving_still_ends_every_job(anyio_backend: str) -> None:
    gate = Gate()
    jobs: list[Job] = []

    async def host() -> None:
        async with Engine(GatedDecoder(gate)) as engine:
            jobs.append(engine.submit(LONG))
            await gate.reached(1)
            await asyncio.Event().wait()

    with gate, anyio.fail_after(10):
        task = asyncio.create_task(host())
        await gate.reached(1)
        while jobs[0].state is not JobState.CANCELLING:
            task.cancel()
            await anyio.lowlevel.checkpoint()
        task.cancel()
        await anyio.lowlevel.checkpoint()
        gate.open()
        with pytest.raises(asyncio.CancelledError):
            await task
    await check_cancelled(*jobs)
    assert engine_threads() == []


INTERRUPTED_PROGRAM = """
import sys
import anyio
from engine import Engine
from engine.testing import Gate, GatedDecoder, Script

async def main():
    gate = Gate()
    try:
        async with Engine(GatedDecoder(gate)) as engine:
            with gate:
                job = engine.submit(Script.of("a" * 100_000))
                await gate.reached(1)
                print("decoding", flush=True)
                await job.result()
    finally:
        print(job.state.value, flush=True)

try:
    anyio.run(main, backend=sys.argv[1])
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_ctrl_c_ends_the_jobs_and_then_the_program(backend: str) -> None:
    with subprocess.Popen(  # our own interpreter on the program above
        [sys.executable, "-c", INTERRUPTED_PROGRAM, backend],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        try:
            assert program.stdout.readline() == "decoding\n"
            program.send_signal(signal.SIGINT)
            output, _ = program.communicate(timeout=10)
        finally:
            program.kill()
    assert output.split() == ["cancelled", "interrupted"]
    assert program.returncode == 0
