"""A decoder that raises, anywhere: the right jobs fail, with their cause, and the engine goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import anyio
import pytest

from engine import DecoderContractError, Engine, GenerationFailed, JobFailed, JobState, Step, TokenGenerated
from engine.events import Event
from engine.job import Job
from engine.testing import Gate, Script, ScriptedDecoder, ScriptedSequence, check_history

pytestmark = pytest.mark.anyio


class WeightsOnFireError(Exception):
    """What the decoders here fail with."""


async def failure(job: Job) -> tuple[list[Event], GenerationFailed]:
    with anyio.fail_after(10):
        with pytest.raises(GenerationFailed) as caught:
            await job.result()
        events = [event async for event in job.events()]
    check_history(events)
    assert job.state is JobState.FAILED
    assert isinstance(events[-1], JobFailed)
    return events, caught.value


async def test_an_admit_that_raises_fails_that_job_alone() -> None:
    cause = WeightsOnFireError("too hot")
    decoder = ScriptedDecoder()
    async with Engine(decoder) as engine:
        bad, good = engine.submit(Script(admit_error=cause)), engine.submit(Script.of("fine"))
        events, error = await failure(bad)
        assert (await good.result()).text == "fine"
    assert error.__cause__ is cause
    assert (error.job_id, error.kind) == (bad.id, "WeightsOnFireError")
    assert isinstance(events[-1], JobFailed)
    assert (events[-1].error, events[-1].kind, events[-1].scope) == ("too hot", "WeightsOnFireError", "job")
    assert decoder.live == []


async def test_a_step_error_fails_that_job_alone_after_its_tokens() -> None:
    cause = WeightsOnFireError()
    decoder = ScriptedDecoder()
    async with Engine(decoder) as engine:
        bad = engine.submit(Script(tokens=[(1, "a"), (2, "b")], step_error=cause))
        good = engine.submit(Script.of("fine"))
        events, error = await failure(bad)
        assert (await good.result()).text == "fine"
    assert error.__cause__ is cause
    assert [event.text for event in events if isinstance(event, TokenGenerated)] == ["a", "b"]
    assert isinstance(events[-1], JobFailed)
    assert events[-1].error == "WeightsOnFireError()"
    assert decoder.live == []


async def test_a_batch_that_raises_fails_all_its_jobs_and_the_engine_serves_the_next() -> None:
    cause = WeightsOnFireError("all of them")

    class BrokenOnceDecoder(ScriptedDecoder):
        def advance(self, sequences: Sequence[ScriptedSequence]) -> Sequence[Step]:
            if len(self.batches) == 3:
                self.batches.append(())
                raise cause
            return super().advance(sequences)

    decoder = BrokenOnceDecoder()
    async with Engine(decoder, max_batch=3) as engine:
        jobs = [engine.submit(Script.of("abcdefgh")) for _ in range(3)]
        waiting = engine.submit(Script.of("next"))
        for job in jobs:
            events, error = await failure(job)
            assert error.__cause__ is cause
            assert isinstance(events[-1], JobFailed)
            assert error.scope == events[-1].scope == "batch"
        assert engine.statistics().batch_failures == 1
        with anyio.fail_after(5):
            assert (await waiting.result()).text == "next"
            assert (await engine.submit(Script.of("later")).result()).text == "later"
    assert decoder.live == []


async def test_a_wrong_number_of_steps_is_a_typed_failure() -> None:
    class GenerousDecoder(ScriptedDecoder):
        def advance(self, sequences: Sequence[ScriptedSequence]) -> Sequence[Step]:
            return [*super().advance(sequences), Step()]

    async with Engine(GenerousDecoder()) as engine:
        _, error = await failure(engine.submit(Script.of("x")))
    assert isinstance(error.__cause__, DecoderContractError)
    assert "2 step(s) for 1" in str(error)


async def test_a_release_that_raises_fails_its_job_alone() -> None:
    cause = WeightsOnFireError("will not go")
    async with Engine(ScriptedDecoder()) as engine:
        bad = engine.submit(Script(tokens=[(1, "a")], release_error=cause))
        good = engine.submit(Script.of("fine"))
        _, error = await failure(bad)
        assert (await good.result()).text == "fine"
    assert error.__cause__ is cause


async def test_a_release_that_raises_after_a_failure_keeps_the_first_cause() -> None:
    cause = WeightsOnFireError("first")
    async with Engine(ScriptedDecoder()) as engine:
        job = engine.submit(Script(step_error=cause, release_error=WeightsOnFireError("second")))
        _, error = await failure(job)
    assert error.__cause__ is cause
    assert "second" in cause.__notes__[0]


@pytest.mark.parametrize("receipt", [{"x": {1, 2}}, {"x": float("nan")}, {"x": object()}])
async def test_a_receipt_that_json_cannot_say_fails_the_job(receipt: Mapping[str, object]) -> None:
    async with Engine(ScriptedDecoder()) as engine:
        _, error = await failure(engine.submit(Script(receipt=receipt)))
    assert isinstance(error.__cause__, DecoderContractError)


async def test_changing_a_receipt_later_does_not_change_the_event() -> None:
    class Shared(ScriptedDecoder):
        def release(self, sequence: ScriptedSequence) -> Mapping[str, object]:
            super().release(sequence)
            return shared

    shared: dict[str, object] = {"path": ["torch"]}
    async with Engine(Shared()) as engine:
        job = engine.submit(Script.of("x"))
        with anyio.fail_after(5):
            result = await job.result()
    shared["path"] = "other"
    assert result.receipt == {"path": ["torch"]}


async def test_a_cancel_and_a_failure_in_one_step_give_one_terminal_event() -> None:
    gate = Gate()

    class GatedFailure(ScriptedDecoder):
        def advance(self, sequences: Sequence[ScriptedSequence]) -> Sequence[Step]:
            gate.pass_through()
            raise WeightsOnFireError

    async with Engine(GatedFailure()) as engine:
        with gate, anyio.fail_after(10):
            job = engine.submit(Script.of("x"))
            await gate.reached(1)
            job.cancel()
            gate.open()
            await failure(job)


async def test_more_than_an_exception_from_a_decoder_ends_the_engine_and_still_ends_every_job(
    anyio_backend: str,
) -> None:
    class EndOfTheWorld(BaseException):
        """More than an Exception: no job's own failure."""

    class EndingDecoder(ScriptedDecoder):
        def advance(self, sequences: Sequence[ScriptedSequence]) -> Sequence[Step]:
            raise EndOfTheWorld

    decoder = EndingDecoder()
    jobs: list[Job] = []

    async def host() -> None:
        async with Engine(decoder, max_batch=1) as engine:
            jobs.extend([engine.submit(Script.of("x")), engine.submit(Script.of("y"))])
            with anyio.fail_after(10):
                await anyio.sleep_forever()

    with pytest.raises(BaseExceptionGroup) as caught:
        await host()
    assert caught.group_contains(EndOfTheWorld)
    # The host itself goes on: no cancellation of the engine's own clings to its task.
    task = asyncio.current_task() if anyio_backend == "asyncio" else None
    assert task is None or task.cancelling() == 0
    for job in jobs:
        _, error = await failure(job)
        assert error.scope == "engine"
        assert "make a new one" in str(error)
    assert decoder.live == []
