"""The running batch, as the compute thread sees it: one slice of work at a time.

Plain synchronous code: orders come in (who joins, who leaves), facts come out, nothing here waits for or
calls the event loop. The sequences of a decoder never leave this module.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, Literal, TypeVar, cast

from engine.decoder import Decoder, StepLike
from engine.errors import DecoderContractError
from engine.events import FINISH_REASONS, FailureScope, FinishReason

RequestT = TypeVar("RequestT")
SequenceT = TypeVar("SequenceT")

# How a job left the batch: its finish, a cancel, or the error that failed it.
Outcome = FinishReason | Literal["cancelled"] | Exception
AT_ONCE = -math.inf
NEVER = math.inf


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """A job got these (token id, text) pairs in one step, at `at` seconds of the engine's clock."""

    job_id: str
    at: float
    tokens: Sequence[tuple[int, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """A job left the batch and its sequence, if it had one, is released; `receipt` is what that gave."""

    job_id: str
    at: float
    outcome: Outcome
    scope: FailureScope = "job"
    """Whose failure it is, if it is one."""
    receipt: Mapping[str, object] = field(default_factory=dict[str, object])


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchFailed:
    """The decoder failed for all sequences together; an `Ended` follows for each."""


Fact = Decoded | Ended | BatchFailed


@dataclass(slots=True)
class _Seat(Generic[SequenceT]):
    """A place in the batch."""

    job_id: str
    sequence: SequenceT
    spoke: bool = False  # whether its first token is out


class Batch(Generic[RequestT, SequenceT]):
    """All admitted sequences of one decoder, on the compute thread.

    The event loop's thread calls `join` and `leave`, sets `alarm` and `crowded`, and reads the counts.
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
        self._seats: list[_Seat[SequenceT]] = []
        self._facts: list[Fact] = []
        # One queue for both, so that nobody can leave before having joined. Its two ends are used by two
        # threads; deques allow that.
        self._orders: deque[Callable[[], None]] = deque()
        self._skipped = False  # whether the last slice left its turn to the event loop
        self._freed = False  # whether a place was freed in the last slice
        self._dead = False
        self.alarm = NEVER
        """Time at which the event loop wants to be asked what to do next: slices end there.

        A number that two threads assign and read, so no lock. It cannot starve the batch: two slices together
        make at least one step.
        """
        self.crowded = False
        """Whether somebody waits for a place: then a slice that finds one free waits for the newcomer."""
        self.steps = 0
        """How many there were."""
        self.advanced = 0
        """Sequences of all steps."""
        self.busy_seconds = 0.0
        """Time of all slices with a step."""

    def join(self, job_id: str, request: RequestT) -> None:
        """Have a job admitted before the next step."""
        self._orders.append(partial(self._admit, job_id, request))

    def leave(self, job_id: str) -> None:
        """Have a job released before the next step; one that has ended by then is left as it is."""
        self._orders.append(partial(self._dismiss, job_id))

    def run_slice(self) -> list[Fact]:
        """Decode for one slice; return what happened, in order.

        A slice ends with its time, at the alarm, and with what somebody waits for: a job's first token or an
        end. Between two steps newcomers join and those who were asked to leave go.
        """
        self._facts = []
        if self._dead:
            return self._facts
        try:
            self._decode()
        except BaseException:
            self._dead = True  # more than an Exception: the engine dies of it
            raise
        return self._facts

    def clear(self) -> None:
        """Release whatever is left; for an engine that dies with sequences running."""
        for seat in self._seats.copy():
            self._end(seat, "cancelled")

    def _decode(self) -> None:
        self._obey()
        now = began = self._clock()
        waited_for = self.crowded and self._freed
        self._freed = False
        if (now >= self.alarm or waited_for) and not self._skipped:
            self._skipped = True
            return
        while self._seats:
            news = self._step()
            self._skipped = False
            before = len(self._facts)
            self._obey()
            now = self._clock()
            if news or len(self._facts) > before or now >= min(self.alarm, began + self._slice_seconds):
                break
        self.busy_seconds += now - began

    def _obey(self) -> None:
        """Let those in and out who are to come and go."""
        while self._orders:
            self._orders.popleft()()

    def _admit(self, job_id: str, request: RequestT) -> None:
        try:
            sequence = self._decoder.admit(request)
        except Exception as error:  # noqa: BLE001  # a decoder may raise anything; it fails this job alone
            self._facts.append(Ended(job_id=job_id, at=self._clock(), outcome=error))
        else:
            self._seats.append(_Seat(job_id, sequence))

    def _dismiss(self, job_id: str) -> None:
        for seat in self._seats:
            if seat.job_id == job_id:
                self._end(seat, "cancelled")
                return

    def _step(self) -> bool:
        """Advance every sequence once; return whether the step brought a first token or an end."""
        seats = self._seats.copy()
        self.steps += 1
        self.advanced += len(seats)
        try:
            steps = self._decoder.advance([seat.sequence for seat in seats])
            if len(steps) != len(seats):
                raise DecoderContractError(  # noqa: TRY301  # one handler for every way of failing the batch
                    f"advance returned {len(steps)} step(s) for {len(seats)} sequence(s); "
                    "it must return one each, in the same order"
                )
        except Exception as error:  # noqa: BLE001  # a decoder may raise anything; it fails the batch
            self._facts.append(BatchFailed())
            for seat in seats:
                self._end(seat, error, "batch")
            return True
        at = self._clock()
        news = False
        for seat, step in zip(seats, steps, strict=True):
            news |= self._record(seat, step, at)
        return news

    def _record(self, seat: _Seat[SequenceT], step: StepLike, at: float) -> bool:
        """Note what one sequence did; return whether it was a first token or an end."""
        try:
            tokens = [(int(token_id), str(text)) for token_id, text in step.tokens]
            finish, error = step.finish, step.error
        except Exception as fault:  # noqa: BLE001  # a step of the wrong shape fails its job, not the engine
            tokens, finish = [], None
            error = DecoderContractError(f"advance returned {step!r}, which is no step: {fault}")
            error.__cause__ = fault
        if finish is not None and finish not in FINISH_REASONS and error is None:
            error = DecoderContractError(
                f"a step has finish={finish!r}; expected None or one of {FINISH_REASONS}"
            )
        first = bool(tokens) and not seat.spoke
        if tokens:
            seat.spoke = True
            self._facts.append(Decoded(job_id=seat.job_id, at=at, tokens=tokens))
        if error is not None:
            self._end(seat, error)
        elif finish is not None:
            self._end(seat, cast("FinishReason", finish))
        return first or error is not None or finish is not None

    def _end(self, seat: _Seat[SequenceT], outcome: Outcome, scope: FailureScope = "job") -> None:
        """Release a sequence, whatever that raises, and note the end of its job."""
        self._seats.remove(seat)
        self._freed = True
        receipt: dict[str, object] = {}
        try:
            receipt = _json_copy(self._decoder.release(seat.sequence))
        except Exception as fault:  # noqa: BLE001  # the job must end, with this error unless it had one before
            if isinstance(outcome, Exception):
                outcome.add_note(f"releasing its sequence then raised {fault!r}")
            else:
                outcome = fault
        self._facts.append(
            Ended(job_id=seat.job_id, at=self._clock(), outcome=outcome, scope=scope, receipt=receipt)
        )


def _json_copy(receipt: Mapping[str, object]) -> dict[str, object]:
    """Return a copy that equals its own JSON round trip, so that events do; raise for what is no JSON."""
    try:
        copy: object = json.loads(json.dumps(dict(receipt), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise DecoderContractError(
            f"release returned {receipt!r}; a receipt is made of JSON values"
        ) from error
    return cast("dict[str, object]", copy)
