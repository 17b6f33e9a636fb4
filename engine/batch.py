"""The running batch, as the compute thread sees it: one slice of work at a time.

Plain synchronous code: newcomers go in, facts come out, nothing here waits for or calls the event loop. The
sequences of a decoder never leave this module. Knows nothing of jobs, events, logs or queues beyond their
ids.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar, cast

from engine.decoder import Decoder, StepLike
from engine.errors import DecoderContractError
from engine.events import FINISH_REASONS, FinishReason

RequestT = TypeVar("RequestT")
SequenceT = TypeVar("SequenceT")

# How a job left the batch: its finish, a cancel, or the error that failed it.
Outcome = FinishReason | Literal["cancelled"] | Exception


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
    receipt: Mapping[str, object] = field(default_factory=dict[str, object])


Fact = Decoded | Ended


@dataclass(slots=True)
class _Seat(Generic[SequenceT]):
    """A place in the batch."""

    job_id: str
    sequence: SequenceT
    spoke: bool = False  # whether its first token is out


class Batch(Generic[RequestT, SequenceT]):
    """All admitted sequences of one decoder. Every method but `leave` runs on the compute thread.

    `interrupted` says, asked between two steps, whether the event loop wants the slice to end.
    """

    def __init__(
        self,
        decoder: Decoder[RequestT, SequenceT],
        *,
        slice_seconds: float,
        interrupted: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self._decoder = decoder
        self._slice_seconds = slice_seconds
        self._interrupted = interrupted
        self._clock = clock
        self._seats: list[_Seat[SequenceT]] = []
        self._facts: list[Fact] = []
        self._leaving: deque[str] = deque()  # the two ends are used by two threads; deques allow that

    def leave(self, job_id: str) -> None:
        """Ask for a job's release after the step in flight; for the event loop's thread.

        A job that has ended by then is left as it is.
        """
        self._leaving.append(job_id)

    def run_slice(self, joining: Sequence[tuple[str, RequestT]]) -> list[Fact]:
        """Admit who joins, then decode for one slice; return what happened, in order.

        A slice ends with its time, with a step that brings news somebody waits for (a job's first token, an
        end), or between two steps when a job is to leave or the slice is interrupted. It makes at least one
        step, so that no flood of interruptions can starve the batch.
        """
        self._facts = []
        for job_id, request in joining:
            self._admit(job_id, request)
        # After the admissions: a job may be asked to leave before the slice that it joins has begun.
        self._release_leaving()
        news = bool(self._facts)
        over = self._clock() + self._slice_seconds
        while self._seats:
            news |= self._step()
            if news or self._leaving or self._interrupted() or self._clock() >= over:
                break
        self._release_leaving()
        return self._facts

    def clear(self) -> None:
        """Release whatever is left; for an engine that dies with sequences running."""
        for seat in self._seats.copy():
            self._end(seat, "cancelled")

    def _release_leaving(self) -> None:
        while self._leaving:
            job_id = self._leaving.popleft()
            for seat in self._seats:
                if seat.job_id == job_id:
                    self._end(seat, "cancelled")
                    break

    def _admit(self, job_id: str, request: RequestT) -> None:
        try:
            sequence = self._decoder.admit(request)
        except Exception as error:  # noqa: BLE001  # a decoder may raise anything; it fails this job alone
            self._facts.append(Ended(job_id=job_id, at=self._clock(), outcome=error))
        else:
            self._seats.append(_Seat(job_id, sequence))

    def _step(self) -> bool:
        """Advance every sequence once; return whether the step brought a first token or an end."""
        seats = self._seats.copy()
        try:
            steps = self._decoder.advance([seat.sequence for seat in seats])
            if len(steps) != len(seats):
                raise DecoderContractError(  # noqa: TRY301  # one handler for every way of failing the batch
                    f"advance returned {len(steps)} step(s) for {len(seats)} sequence(s); "
                    "it must return one each, in the same order"
                )
        except Exception as error:  # noqa: BLE001  # a decoder may raise anything; it fails the batch
            for seat in seats:
                self._end(seat, error)
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

    def _end(self, seat: _Seat[SequenceT], outcome: Outcome) -> None:
        """Release a sequence, whatever that raises, and note the end of its job."""
        self._seats.remove(seat)
        receipt: dict[str, object] = {}
        try:
            receipt = _json_copy(self._decoder.release(seat.sequence))
        except Exception as fault:  # noqa: BLE001  # the job must end, with this error unless it had one before
            if isinstance(outcome, Exception):
                outcome.add_note(f"releasing its sequence then raised {fault!r}")
            else:
                outcome = fault
        at = self._clock()
        self._facts.append(Ended(job_id=seat.job_id, at=at, outcome=outcome, receipt=receipt))


def _json_copy(receipt: Mapping[str, object]) -> dict[str, object]:
    """Return a copy that equals its own JSON round trip, so that events do; raise for what is no JSON."""
    try:
        copy: object = json.loads(json.dumps(dict(receipt), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise DecoderContractError(
            f"release returned {receipt!r}; a receipt is made of JSON values"
        ) from error
    return cast("dict[str, object]", copy)
