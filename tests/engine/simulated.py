"""The world of a simulation: a clock, a compute thread and a decoder that do what a random number says.

Everything happens on the event loop, so that one seed gives one history.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import anyio.lowlevel

from engine import Step
from engine.testing import Script, ScriptedDecoder, ScriptedSequence
from engine.worker import Future

T = TypeVar("T")


class Clock:
    """Seconds that pass when somebody says so, on any thread."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._lock = threading.Lock()

    def __call__(self) -> float:
        return self.now

    def go_on(self, seconds: float) -> None:
        with self._lock:
            self.now += seconds


class InlineCompute:
    """A compute thread without the thread: calls are performed when somebody waits for one of them."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.calls: deque[InlineCall[object]] = deque()
        self.running = False

    def start(self) -> None:
        self.running = True

    def submit(self, function: Callable[[], T]) -> Future[T]:
        call = InlineCall(self, function)
        self.calls.append(call)  # pyright: ignore[reportArgumentType]
        return call

    async def close(self, last: Callable[[], object]) -> None:
        last()
        self.running = False


class InlineCall(Generic[T]):
    def __init__(self, compute: InlineCompute, function: Callable[[], T]) -> None:
        self.compute, self.function = compute, function
        self.outcomes: list[T] = []

    async def result(self) -> T:
        """Now or later, perhaps with the call behind it: the real thread runs ahead of the event loop."""
        compute, chance = self.compute, self.compute.chance
        for _ in range(chance.randrange(4)):
            await anyio.lowlevel.checkpoint()
        while not self.outcomes:
            compute.calls.popleft().perform()
        if compute.calls and chance.random() < 0.5:
            compute.calls.popleft().perform()
        for _ in range(chance.randrange(3)):
            await anyio.lowlevel.checkpoint()
        return self.outcomes[0]

    def perform(self) -> None:
        self.outcomes.append(self.function())


@dataclass(frozen=True, kw_only=True)
class NumberedScript(Script):
    """A script that tells who it belongs to."""

    number: int


class PowerCutError(Exception):
    """What fails a whole batch here."""


class SimulatedDecoder(ScriptedDecoder):
    """Steps take a random time on the clock, and some fail as a whole."""

    def __init__(self, clock: Clock, chance: random.Random) -> None:
        super().__init__()
        self.clock = clock
        self.chance = chance
        self.troubled = chance.random() < 0.2
        self.longest = chance.choice([0.001, 0.01, 0.1])
        self.steps: list[frozenset[int]] = []
        """Numbers of the scripts in each step..."""
        self.began: list[float] = []
        """... and when it began."""
        self.failed: set[int] = set()
        """Numbers of the scripts of steps that failed as a whole."""

    def advance(self, sequences: Sequence[ScriptedSequence]) -> Sequence[Step]:
        self.began.append(self.clock.now)
        self.clock.go_on(self.chance.random() * self.longest)
        numbers = frozenset(number_of(sequence) for sequence in sequences)
        self.steps.append(numbers)
        if self.troubled and self.chance.random() < 0.02:
            self.failed |= numbers
            if self.chance.random() < 0.5:
                raise PowerCutError
            return []  # as wrong, said in another way
        return super().advance(sequences)

    def release(self, sequence: ScriptedSequence) -> Mapping[str, object]:
        self.clock.go_on(self.chance.random() * 0.0001)
        return super().release(sequence)


def number_of(sequence: ScriptedSequence) -> int:
    script = sequence.script
    assert isinstance(script, NumberedScript)
    return script.number


def random_script(chance: random.Random, number: int) -> NumberedScript:
    fault = chance.choice(["none"] * 12 + ["admit", "step", "release"])
    return NumberedScript(
        number=number,
        tokens=[
            (1000 * number + n, f"{number}.{n} ") for n in range(chance.randrange(chance.choice([4, 40])))
        ],
        finish=chance.choice(["stop", "length", "context"]),
        prefill_steps=chance.randrange(4),
        tokens_a_step=chance.randint(1, 4),
        receipt={"prompt_tokens": 10, "reused_tokens": chance.randrange(10)},
        admit_error=OSError("admit") if fault == "admit" else None,
        step_error=OSError("step") if fault == "step" else None,
        release_error=OSError("release") if fault == "release" else None,
    )
