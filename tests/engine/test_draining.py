"""Draining: what was taken is finished, nothing new is taken."""

from __future__ import annotations

import anyio
import pytest

from engine import Engine, EngineClosed
from engine.testing import Gate, GatedDecoder, Script, ScriptedDecoder

pytestmark = pytest.mark.anyio


async def test_a_drained_engine_has_finished_all_its_jobs() -> None:
    decoder = ScriptedDecoder()
    async with Engine(decoder, max_batch=2) as engine:
        jobs = [engine.submit(Script.of("hello" * n)) for n in range(7)]
        with anyio.fail_after(5):
            await engine.drain()
        assert dict(engine.jobs) == {}
        assert decoder.live == []
    assert [(await job.result()).text for job in jobs] == ["hello" * n for n in range(7)]


async def test_a_draining_engine_refuses_new_jobs_and_can_be_drained_twice() -> None:
    gate = Gate()
    async with Engine(GatedDecoder(gate)) as engine:
        with gate, anyio.fail_after(10):
            job = engine.submit(Script.of("hello"))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(engine.drain)
                tasks.start_soon(engine.drain)
                await anyio.wait_all_tasks_blocked()
                with pytest.raises(EngineClosed, match="draining"):
                    engine.submit(Script.of("late"))
                gate.open()
            assert (await job.result()).text == "hello"
            await engine.drain()
    await engine.drain()  # left: nothing to wait for


async def test_a_drain_that_takes_too_long_leaves_the_rest_to_be_cancelled() -> None:
    gate = Gate()
    async with Engine(GatedDecoder(gate)) as engine:
        with gate:
            job = engine.submit(Script.of("a" * 1000))
            with anyio.move_on_after(0):
                await engine.drain()
            with pytest.raises(EngineClosed, match="draining"):
                engine.submit(Script.of("late"))
    with anyio.fail_after(5):
        assert (await job.result()).cause == "closing"


async def test_an_idle_engine_is_drained_at_once() -> None:
    async with Engine(ScriptedDecoder()) as engine:
        with anyio.fail_after(5):
            await engine.drain()


async def test_an_engine_that_was_not_entered_cannot_be_drained() -> None:
    with pytest.raises(EngineClosed, match="not entered"):
        await Engine(ScriptedDecoder()).drain()
