"""The running batch, as the compute thread sees it: one slice of work at a time.

Plain synchronous code. Commands come in (a job joins or leaves), batch events come out, and nothing here
waits for the event loop or calls it. The sequences of a decoder never leave this module.

A decoder may be wrong in any way: it may raise, return anything, and return objects whose methods raise.
Whatever it returns is checked here and copied into plain values. A fault ends the jobs that it concerns, with
`DecoderContractError` or the decoder's own error.
"""

from __future__ import annotations

import contextlib
import json
import math
import operator
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Generic, Literal, TypeVar, cast

from engine.decoder import Decoder, StepLike
from engine.errors import DecoderContractError, readable
from engine.events import FINISH_REASONS, FailureScope, FinishReason

RequestT = TypeVar("RequestT")
SequenceT = TypeVar("SequenceT")

# How a job left the batch: its finish, a cancel, or the error that failed it.
Outcome = FinishReason | Literal["cancelled"] | Exception
AT_ONCE = -math.inf
NEVER = math.inf
MAX_TOKENS_PER_STEP = 2**16
"""Tokens of one sequence in one step. All of them are published at once, so there must be a bound."""
MAX_TOKEN_ID = 2**63 - 1
"""The largest token id: what 64 bits hold, and every reader of JSON."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """A job got these (token id, text) pairs in one step, at `at` seconds of the engine's clock."""

    job_id: str
    at: float
    tokens: Sequence[tuple[int, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """A job left the batch; its sequence, if it had one, is released and gave `receipt`."""

    job_id: str
    at: float
    outcome: Outcome
    scope: FailureScope = "job"
    """Whose failure it is, if it is one."""
    receipt: Mapping[str, object] = field(default_factory=dict[str, object])


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchFailed:
    """The decoder failed for all sequences together; an `Ended` follows for each."""


BatchEvent = Decoded | Ended | BatchFailed


@dataclass(slots=True, eq=False)
class _Slot(Generic[SequenceT]):
    """A place in the batch."""

    job_id: str
    sequence: SequenceT
    has_emitted: bool = False
    """Whether its first token is out."""


class Batch(Generic[RequestT, SequenceT]):
    """All admitted sequences of one decoder, on the compute thread.

    The event loop's thread calls `join` and `leave`, sets `wake_at` and `has_waiters`, and reads the counts.
    """

    def __init__(
        self,
        decoder: Decoder[RequestT, SequenceT],
        *,
        slice_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self._decoder = decoder
        self._slice_seconds = slice_seconds
        self._clock = clock
        self._slots: list[_Slot[SequenceT]] = []
        self._events: list[BatchEvent] = []
        # One queue for both commands, so that no job can leave before it has joined. Its two ends are used by
        # two threads; deques allow that.
        self._commands: deque[Callable[[], None]] = deque()
        self._skipped = False  # whether the last slice left its turn to the event loop
        self._freed = False  # whether a place was freed in the last slice
        self._dead = False
        self.wake_at = NEVER
        """Time at which the event loop wants to be asked what to do next: slices end there.

        A number that two threads assign and read, so no lock. It cannot starve the batch: two slices together
        make at least one step.
        """
        self.has_waiters = False
        """Whether a job waits for a place: then a slice that finds one free waits for the newcomer."""
        self.steps = 0
        """Calls of the decoder's `advance`."""
        self.advanced = 0
        """Sequences of all steps."""
        self.busy_seconds = 0.0
        """Time of all slices with a step."""

    def join(self, job_id: str, request: RequestT) -> None:
        """Have a job admitted before the next step."""
        self._commands.append(partial(self._admit, job_id, request))

    def leave(self, job_id: str) -> None:
        """Have a job released before the next step; one that has ended by then is left as it is."""
        self._commands.append(partial(self._remove, job_id))

    def run_slice(self) -> list[BatchEvent]:
        """Decode for one slice; return what happened, in order.

        A slice ends with its time, at `wake_at`, and with what a caller waits for: a job's first token or an
        end. Jobs join and leave between two steps.
        """
        self._events = []
        if self._dead:
            return self._events
        try:
            self._decode()
        except BaseException:
            self._dead = True  # not an Exception: the engine dies of it
            raise
        return self._events

    def clear(self) -> None:
        """Release whatever is left, for an engine that dies with sequences running."""
        for slot in self._slots.copy():
            self._end(slot, "cancelled")

    def _decode(self) -> None:
        self._apply_commands()
        now = began = self._clock()
        place_is_awaited = self.has_waiters and self._freed
        self._freed = False
        if (now >= self.wake_at or place_is_awaited) and not self._skipped:
            self._skipped = True
            return
        while self._slots:
            is_awaited = self._step()
            self._skipped = False
            before = len(self._events)
            self._apply_commands()
            now = self._clock()
            ends_at = min(self.wake_at, began + self._slice_seconds)
            if is_awaited or len(self._events) > before or now >= ends_at:
                break
        self.busy_seconds += now - began

    def _apply_commands(self) -> None:
        while self._commands:
            self._commands.popleft()()

    def _admit(self, job_id: str, request: RequestT) -> None:
        try:
            sequence = self._decoder.admit(request)
        except Exception as error:  # noqa: BLE001  # a decoder may raise anything; it fails this job alone
            self._events.append(Ended(job_id=job_id, at=self._clock(), outcome=error))
        else:
            self._slots.append(_Slot(job_id, sequence))

    def _remove(self, job_id: str) -> None:
        for slot in self._slots:
            if slot.job_id == job_id:
                self._end(slot, "cancelled")
                return

    def _step(self) -> bool:
        """Advance every sequence once; return whether the step brought a first token or an end."""
        slots = self._slots.copy()
        self.steps += 1
        self.advanced += len(slots)
        try:
            # A copy, because a returned object may lie about its length; one more shows that there are more.
            steps = list(
                islice(iter(self._decoder.advance([slot.sequence for slot in slots])), len(slots) + 1)
            )
            if len(steps) != len(slots):
                at_least = "at least " if len(steps) > len(slots) else ""
                raise DecoderContractError(  # noqa: TRY301  # one handler for every way of failing the batch
                    f"advance returned {at_least}{len(steps)} step(s) for {len(slots)} "
                    "sequence(s); it must return one each, in the same order"
                )
        except Exception as error:  # noqa: BLE001  # a decoder may raise anything; it fails the batch
            self._events.append(BatchFailed())
            for slot in slots:
                self._end(slot, error, "batch")
            return True
        at = self._clock()
        is_awaited = False
        for slot, step in zip(slots, steps, strict=True):
            is_awaited |= self._record(slot, step, at)
        return is_awaited

    def _record(self, slot: _Slot[SequenceT], step: StepLike, at: float) -> bool:
        """Record one sequence's step; return whether it was a first token or an end."""
        try:
            tokens, outcome = _checked(step)
        except Exception as fault:  # noqa: BLE001  # a step of the wrong shape fails its job, not the engine
            error = DecoderContractError(
                f"advance returned {readable(step)}, which is not a step: {readable(fault, str)}"
            )
            error.__cause__ = fault
            tokens, outcome = [], error
        is_first = bool(tokens) and not slot.has_emitted
        if tokens:
            slot.has_emitted = True
            self._events.append(Decoded(job_id=slot.job_id, at=at, tokens=tokens))
        if outcome is not None:
            self._end(slot, outcome)
        return is_first or outcome is not None

    def _end(self, slot: _Slot[SequenceT], outcome: Outcome, scope: FailureScope = "job") -> None:
        """Release a sequence, whatever that raises, and record the end of its job."""
        self._slots.remove(slot)
        self._freed = True
        receipt: dict[str, object] = {}
        try:
            receipt = _json_copy(self._decoder.release(slot.sequence))
        except Exception as fault:  # noqa: BLE001  # the job must end, with this error unless it had one before
            if isinstance(outcome, Exception):
                with contextlib.suppress(Exception):  # an error may refuse attributes
                    outcome.add_note(f"releasing its sequence then raised {readable(fault)}")
            else:
                outcome = fault
        self._events.append(
            Ended(job_id=slot.job_id, at=self._clock(), outcome=outcome, scope=scope, receipt=receipt)
        )


def _checked(step: StepLike) -> tuple[list[tuple[int, str]], FinishReason | Exception | None]:
    """Return a step's tokens as plain values, and what ends its job; raise if it is not a step."""
    tokens: list[tuple[int, str]] = []
    for token_id, text in islice(iter(step.tokens), MAX_TOKENS_PER_STEP + 1):
        number = operator.index(token_id)
        if not 0 <= number <= MAX_TOKEN_ID:
            raise ValueError(f"a token id is {readable(number)}, expected 0 to 2**63 - 1")
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"a token's text is {readable(text)}, expected a str")
        tokens.append((number, str(text)))
    if len(tokens) > MAX_TOKENS_PER_STEP:
        raise ValueError(f"it has more than {MAX_TOKENS_PER_STEP} tokens")
    error, finish = step.error, step.finish
    if error is not None:
        if not isinstance(error, Exception):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"its error is {readable(error)}, expected an Exception or None")
        return tokens, error
    if finish is None:
        return tokens, None
    reason = next((reason for reason in FINISH_REASONS if reason == finish), None)
    if reason is None:
        # Its tokens are fine: they are published before the job fails.
        return tokens, DecoderContractError(
            f"a step has finish={readable(finish)}; expected None or one of {FINISH_REASONS}"
        )
    return tokens, cast("FinishReason", reason)


def _json_copy(receipt: Mapping[str, object]) -> dict[str, object]:
    """Return a copy that equals its own JSON round trip, so that events do; raise for what is not JSON."""
    try:
        copy: object = json.loads(json.dumps(dict(receipt), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise DecoderContractError(
            f"release returned {readable(receipt)}; a receipt is made of JSON values"
        ) from error
    return cast("dict[str, object]", copy)
