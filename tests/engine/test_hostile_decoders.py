"""Decoders that return and raise what no decoder should: every job ends, and the engine serves the next."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import anyio
import pytest

from engine import Engine, GenerationFailed, JobFailed, JobState, Step
from engine.errors import readable
from engine.job import Job
from engine.testing import Script, ScriptedDecoder, ScriptedSequence, check_history

pytestmark = pytest.mark.anyio


class UnspeakableError(Exception):
    """Its descriptions fail."""

    def __str__(self) -> str:
        return self.args[17]

    __repr__ = __str__

    def add_note(self, note: str) -> None:
        raise UnspeakableError


class NotTextError(Exception):
    def __str__(self) -> str:
        return self.args  # type: ignore[return-value]


class SilentError(Exception):
    def __str__(self) -> str:
        return ""


class LongError(Exception):
    def __str__(self) -> str:
        return "x" * 10**6


class LyingList(list[Any]):
    def __init__(self, items: Sequence[Any], length: int) -> None:
        super().__init__(items)
        self.length = length

    def __len__(self) -> int:
        return self.length


class Broken:
    """Every look at it fails."""

    def __getattribute__(self, name: str) -> Any:
        raise UnspeakableError

    def __repr__(self) -> str:
        raise UnspeakableError

    def __eq__(self, other: object) -> bool:
        raise UnspeakableError

    def __hash__(self) -> int:
        return 0


def raising() -> Iterator[Any]:
    yield Step(finish="stop")
    raise UnspeakableError


class HostileDecoder(ScriptedDecoder):
    """Does something else for the replies "bad"."""

    def __init__(self, **instead: Callable[[], Any]) -> None:
        super().__init__()
        self.instead = instead

    def admit(self, request: Script) -> ScriptedSequence:
        if "admit" in self.instead and request.text == "bad":
            return self.instead["admit"]()
        return super().admit(request)

    def advance(self, sequences: Sequence[ScriptedSequence]) -> Sequence[Step]:
        steps = list(super().advance(sequences))
        for number, sequence in enumerate(sequences):
            if sequence.script.text == "bad":
                if "advance" in self.instead:
                    return self.instead["advance"]()
                if "step" in self.instead:
                    steps[number] = self.instead["step"]()
        return steps

    def release(self, sequence: ScriptedSequence) -> Mapping[str, object]:
        receipt = super().release(sequence)
        if "release" in self.instead and sequence.script.text == "bad":
            return self.instead["release"]()
        return receipt


def throw(error: BaseException) -> Callable[[], Any]:
    def call() -> Any:
        raise error

    return call


def nested() -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(100_000):
        value = {"a": value}
    return value


# What is wrong, for whom, and what the failure says.
FAULTS: dict[str, tuple[dict[str, Callable[[], Any]], str]] = {
    "admit raises an error without words": ({"admit": throw(UnspeakableError())}, "without a readable"),
    "admit raises an error whose text is no text": ({"admit": throw(NotTextError())}, "NotTextError"),
    "admit raises an error with nothing to say": ({"admit": throw(SilentError())}, "SilentError()"),
    "admit raises an endless error": ({"admit": throw(LongError())}, "(1000000 characters)"),
    "advance raises an error without words": ({"advance": throw(UnspeakableError())}, "without a readable"),
    "advance raises and so does release": (
        {"advance": throw(UnspeakableError()), "release": throw(UnspeakableError())},
        "without a readable",
    ),
    "advance returns None": ({"advance": lambda: None}, "not iterable"),
    "advance returns a number": ({"advance": lambda: 5}, "not iterable"),
    "a list that is shorter than it says": (
        {"advance": lambda: LyingList([], 1)},
        "returned 0 step(s) for 1",
    ),
    "a list that is longer than it says": (
        {"advance": lambda: LyingList([Step()] * 5, 1)},
        "at least 2 step(s) for 1",
    ),
    "a list of negative length": ({"advance": lambda: LyingList([], -1)}, "returned 0 step(s) for 1"),
    "a list of absurd length": ({"advance": lambda: LyingList([], 2**62)}, "0 step(s) for 1"),
    "an iterator that raises": ({"advance": raising}, "without a readable"),
    "an iterator without end": ({"advance": lambda: itertools.repeat(Step())}, "at least 2 step(s) for 1"),
    "a step that is broken": ({"step": Broken}, "not a step"),
    "a step that is None": ({"step": lambda: None}, "returned None, which is not a step"),
    "an error that is a word": ({"step": lambda: Step(error="cancelled")}, "expected an Exception"),  # type: ignore[arg-type]
    "an error that is a class": ({"step": lambda: Step(error=ValueError)}, "expected an Exception"),  # type: ignore[arg-type]
    "an error that is no Exception": (
        {"step": lambda: Step(error=KeyboardInterrupt())},  # type: ignore[arg-type]
        "expected an Exception",
    ),
    "an error without words": ({"step": lambda: Step(error=UnspeakableError())}, "without a readable"),
    "an error that is broken": ({"step": lambda: Step(error=Broken())}, "not a step"),  # type: ignore[arg-type]
    "a finish that is unknown": ({"step": lambda: Step(finish="cancelled")}, "finish='cancelled'"),
    "a finish that is broken": ({"step": lambda: Step(finish=Broken())}, "not a step"),  # type: ignore[arg-type]
    "tokens that are broken": ({"step": lambda: Step(Broken())}, "not a step"),  # type: ignore[arg-type]
    "tokens that raise": ({"step": lambda: Step(raising())}, "not a step"),  # type: ignore[arg-type]
    "tokens without end": ({"step": lambda: Step(itertools.repeat((1, "")))}, "more than"),  # type: ignore[arg-type]
    "a million tokens": ({"step": lambda: Step([(1, "x")] * 10**6)}, "more than 65536 tokens"),
    "an id of 5,000 digits": ({"step": lambda: Step([(10**5000, "x")])}, "expected 0 to 2**63 - 1"),
    "an id beyond 64 bits": ({"step": lambda: Step([(2**63, "x")])}, "expected 0 to"),
    "a negative id": ({"step": lambda: Step([(-1, "x")])}, "a token id is -1"),
    "an id that is a fraction": ({"step": lambda: Step([(1.5, "x")])}, "not a step"),  # type: ignore[list-item]
    "a text that is none": ({"step": lambda: Step([(1, None)])}, "text is None, expected a str"),  # type: ignore[list-item]
    "a token that is no pair": ({"step": lambda: Step([(1, "x", 2)])}, "not a step"),  # type: ignore[list-item]
    "a receipt that is None": ({"release": lambda: None}, "returned None"),
    "a receipt that is broken": ({"release": Broken}, "without a readable"),
    "a receipt of absurd depth": ({"release": nested}, "made of JSON values"),
    "release raises an error without words": ({"release": throw(UnspeakableError())}, "without a readable"),
}


async def failure(job: Job) -> JobFailed:
    with anyio.fail_after(20):
        with pytest.raises(GenerationFailed):
            await job.result()
        events = [event async for event in job.events()]
    check_history(events)
    assert job.state is JobState.FAILED
    assert isinstance(events[-1], JobFailed)
    return events[-1]


@pytest.mark.parametrize("fault", FAULTS)
async def test_whatever_a_decoder_does_its_job_fails_and_the_next_is_served(fault: str) -> None:
    instead, words = FAULTS[fault]
    async with Engine(HostileDecoder(**instead)) as engine:
        event = await failure(engine.submit(Script.of("bad")))
        assert words in event.error
        good = engine.submit(Script.of("good"))
        with anyio.fail_after(20):
            assert (await good.result()).text == "good"
            await engine.drain()


async def test_as_many_tokens_in_a_step_as_are_allowed_are_published() -> None:
    decoder = HostileDecoder(step=lambda: Step([(2**63 - 1, "x")] * 65_536, finish="stop"))
    async with Engine(decoder) as engine:
        with anyio.fail_after(20):
            result = await engine.submit(Script.of("bad")).result()
    assert result.text == "x" * 65_536


@pytest.mark.parametrize("place", ["loop", "thread"])
async def test_whatever_breaks_the_owner_ends_every_job_and_wakes_every_waiter(place: str) -> None:
    """Here the clock: it is neither a decoder's fault nor a job's."""
    host, broken = threading.get_ident(), threading.Event()

    def clock() -> float:
        if broken.is_set() and (threading.get_ident() == host) == (place == "loop"):
            raise ZeroDivisionError  # trio itself stops at errors that cannot be described
        return 1.0

    jobs: list[Job] = []
    seen: list[object] = []

    async def follow(engine: Engine[Script, ScriptedSequence]) -> None:
        with anyio.CancelScope(shield=True):
            seen.extend([event async for event in engine.subscribe()])

    async def wait(job: Job) -> None:
        with anyio.CancelScope(shield=True):
            seen.append(await failure(job))

    async def drain(engine: Engine[Script, ScriptedSequence]) -> None:
        with anyio.CancelScope(shield=True):
            await engine.drain()
            seen.append("drained")

    async def run() -> None:
        async with anyio.create_task_group() as tasks:
            engine = Engine(ScriptedDecoder(), max_batch=1, clock=clock)
            async with engine:
                tasks.start_soon(follow, engine)
                jobs.extend(engine.submit(Script.of("x" * 1000)) for _ in range(3))
                for job in jobs:
                    tasks.start_soon(wait, job)
                tasks.start_soon(drain, engine)
                await (
                    anyio.wait_all_tasks_blocked()
                ) if place == "never" else await anyio.lowlevel.checkpoint()
                broken.set()
                await anyio.sleep_forever()

    with anyio.fail_after(20), pytest.raises(BaseExceptionGroup) as caught:
        await run()
    assert caught.group_contains(ZeroDivisionError)
    assert "drained" in seen
    failures = [event for event in seen if isinstance(event, JobFailed)]
    assert {event.job_id for event in failures} == {job.id for job in jobs}
    assert all(event.scope == "engine" for event in failures)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("a", "'a'"), (10**5000, "<int without a readable description>"), (Broken(), "<Broken without")],
    ids=["text", "number", "broken"],
)
def test_a_description_never_fails(value: object, expected: str) -> None:
    assert readable(value).startswith(expected)


def test_a_description_is_bounded() -> None:
    assert readable("x" * 10**6) == f"'{'x' * 199}... (1000002 characters)"
