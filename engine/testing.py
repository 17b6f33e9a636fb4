"""Test helpers for users of the engine: a scripted decoder, a gate, and a check of a job's history.

The engine itself does not import them. Everything is deterministic: a request is the script of its own reply,
and a gate stops the compute thread at an exact step, so that no test needs to sleep.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import anyio.to_thread

from engine.decoder import Step
from engine.events import (
    TERMINAL_EVENTS,
    Event,
    JobCancelled,
    JobFailed,
    JobQueued,
    JobStarted,
    TokenGenerated,
    from_json,
    to_json,
)


@dataclass(frozen=True, kw_only=True)
class Script:
    """A request that states its own reply, and its failures."""

    tokens: Sequence[tuple[int, str]] = ()
    finish: str = "stop"
    prefill_steps: int = 0
    """Steps without a token before the first one."""
    tokens_a_step: int = 1
    receipt: Mapping[str, object] = field(default_factory=dict[str, object])
    admit_error: Exception | None = None
    step_error: Exception | None = None
    """Replaces the finish, on the step of the last token."""
    release_error: Exception | None = None

    @classmethod
    def of(cls, text: str) -> Script:
        """Return a script with one token for each character, its code point as id."""
        return cls(tokens=[(ord(character), character) for character in text])

    @property
    def text(self) -> str:
        """The whole reply."""
        return "".join(text for _, text in self.tokens)


@dataclass(eq=False)
class ScriptedSequence:
    """Position in a script."""

    script: Script
    prefilled: int = 0
    emitted: int = 0

    def step(self) -> Step:
        """Return the next step."""
        script = self.script
        if self.prefilled < script.prefill_steps:
            self.prefilled += 1
            return Step()
        tokens = script.tokens[self.emitted : self.emitted + script.tokens_a_step]
        self.emitted += len(tokens)
        if self.emitted < len(script.tokens):
            return Step(tokens)
        if script.step_error is not None:
            return Step(tokens, error=script.step_error)
        return Step(tokens, finish=script.finish)


class ScriptedDecoder:
    """Replies to a `Script` as it states, and records how it was called."""

    def __init__(self) -> None:
        self.admitted: list[Script] = []
        """Scripts in the order of admission."""
        self.live: list[ScriptedSequence] = []
        """Admitted and not released."""
        self.batches: list[tuple[str, ...]] = []
        """For every step, the reply texts of its batch."""
        self.threads: set[int] = set()
        """Identifiers of the threads that called."""

    def admit(self, request: Script) -> ScriptedSequence:
        """Start a script."""
        self.threads.add(threading.get_ident())
        self.admitted.append(request)
        if request.admit_error is not None:
            raise request.admit_error
        sequence = ScriptedSequence(request)
        self.live.append(sequence)
        return sequence

    def advance(self, sequences: Sequence[ScriptedSequence]) -> Sequence[Step]:
        """Return the next step of each."""
        self.threads.add(threading.get_ident())
        self.batches.append(tuple(sequence.script.text for sequence in sequences))
        return [sequence.step() for sequence in sequences]

    def release(self, sequence: ScriptedSequence) -> Mapping[str, object]:
        """End a script; `ValueError` if it has ended before."""
        self.threads.add(threading.get_ident())
        self.live.remove(sequence)
        if sequence.script.release_error is not None:
            raise sequence.script.release_error
        return {**sequence.script.receipt, "said": sequence.emitted}


class Gate:
    """Stops the compute thread before each step until a test lets it through.

    Enter it as a context manager inside the engine's block: leaving opens it permanently, so that a failing
    test does not leave the engine waiting. A step that waits longer than `patience` seconds raises
    `TimeoutError`.
    """

    def __init__(self, patience: float = 10.0) -> None:
        self._patience = patience
        self._changed = threading.Condition()
        self._allowed: float = 0
        self._arrived = 0

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.open()

    def allow(self, steps: int = 1) -> None:
        """Let this many more steps through."""
        with self._changed:
            self._allowed += steps
            self._changed.notify_all()

    def open(self) -> None:
        """Let every step through from now on."""
        with self._changed:
            self._allowed = float("inf")
            self._changed.notify_all()

    def pass_through(self) -> None:
        """Wait to be let through; for the compute thread."""
        with self._changed:
            self._arrived += 1
            ticket = self._arrived
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: ticket <= self._allowed, self._patience):
                raise TimeoutError(f"step {ticket} waited at the gate for {self._patience} seconds")

    async def reached(self, step: int) -> None:
        """Wait until the compute thread has reached step number `step`, counted from 1."""

        def wait() -> None:
            with self._changed:
                self._changed.wait_for(lambda: self._arrived >= step, self._patience)

        await anyio.to_thread.run_sync(wait, abandon_on_cancel=True)


class GatedDecoder(ScriptedDecoder):
    """A scripted decoder that stops at a gate before each step."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self._gate = gate

    def advance(self, sequences: Sequence[ScriptedSequence]) -> Sequence[Step]:
        """Return the next step of each once the gate lets it."""
        self._gate.pass_through()
        return super().advance(sequences)


def check_history(events: Iterable[Event]) -> None:
    """Raise `AssertionError` unless these are all events of one ended job, as the engine promises them."""
    history = list(events)
    names = [type(event).__name__ for event in history]
    _require(history, bool(history), "a history has events")
    _require(history, isinstance(history[0], JobQueued), "the first event is JobQueued")
    _require(history, len({event.job_id for event in history}) == 1, "all events are of one job")
    _require(history, [event.seq for event in history] == list(range(len(history))), "seq is 0, 1, 2, ...")
    ends = [isinstance(event, TERMINAL_EVENTS) for event in history]
    _require(history, sum(ends) == 1 and ends[-1], "there is one terminal event and it is the last")
    _require(history, names.count("JobQueued") == 1, "the job is queued once")
    if len(history) > 2:
        _require(history, isinstance(history[1], JobStarted), "the job starts before anything is decoded")
        _require(history, names.count("JobStarted") == 1, "the job starts once")
    else:
        _require(history, isinstance(history[-1], JobCancelled | JobFailed), "only a started job is done")
    indexes = [event.index for event in history if isinstance(event, TokenGenerated)]
    _require(history, indexes == list(range(len(indexes))), "token indexes are 0, 1, 2, ...")
    times = [event.at for event in history]
    _require(history, times == sorted(times), "times do not decrease")
    _require(
        history,
        [from_json(to_json(event)) for event in history] == history,
        "events survive a JSON round trip",
    )


def _require(history: Sequence[Event], holds: bool, rule: str) -> None:  # noqa: FBT001  # the claim itself
    if not holds:
        listing = "\n".join(map(repr, history))
        raise AssertionError(f"broken: {rule}. The history:\n{listing}")
