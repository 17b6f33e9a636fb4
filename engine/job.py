"""A job as its caller sees it, and its result.

A job runs whether or not it has followers, unless it was submitted with `cancel_when_abandoned`, and stays
readable after the engine is left. For the event loop's thread only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from engine.errors import GenerationFailed
from engine.event_log import Cursor
from engine.events import CancelCause, FinishReason, JobCancelled, JobDone, JobFailed, TokenGenerated
from engine.job_state import JobRecord, JobState
from engine.statistics import JobStatistics, job_statistics


@dataclass(frozen=True, kw_only=True, slots=True)
class Timings:
    """Seconds, each counted from the moment of `submit`."""

    queued: float
    """Until the job was handed to the compute thread, or cancelled before that."""
    first_token: float | None
    """Until its first token; None if there was none."""
    total: float
    """Until its terminal event."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """A reply, complete or cancelled; of a cancelled job, the tokens that came before the cancel."""

    job_id: str
    token_ids: tuple[int, ...]
    text: str
    reason: FinishReason | Literal["cancelled"]
    cause: CancelCause | None
    """Why a cancelled job was cancelled; None for every other."""
    receipt: Mapping[str, object]
    timings: Timings


class Job:
    """A submitted request. Made by `Engine.submit`."""

    # The record may hold any type of request: a job's caller never gets it back.
    def __init__(
        self, record: JobRecord[object], *, cancel: Callable[[], None], clock: Callable[[], float]
    ) -> None:
        self._record = record
        self._cancel = cancel
        self._clock = clock

    def __repr__(self) -> str:
        return f"<Job {self.id!r} {self.state.value}>"

    @property
    def id(self) -> str:
        """Name of the job, unique within its engine."""
        return self._record.id

    @property
    def state(self) -> JobState:
        """State of the job now."""
        return self._record.state

    def events(self, start: int = 0) -> Cursor:
        """Return an iterator over the job's events from `seq` `start` through the terminal one.

        There may be any number of iterators, also after the engine is left; each has its own position. A
        negative `start` is a `ValueError`. With a `start` beyond the last event the iteration ends when the
        job does.
        """
        return self._record.follow(start)

    async def result(self) -> Result:
        """Wait for the end and return the reply; `GenerationFailed`, from its cause, if the job failed.

        Cancelling the wait does not cancel the job, unless it was submitted with `cancel_when_abandoned`: a
        waiting task is a follower, as a cursor is.
        """
        record = self._record
        with self.events():
            await record.ended.wait()
        events = record.log.snapshot()
        cause: CancelCause | None = None
        match events[-1]:
            case JobDone(reason=reason):
                pass
            case JobCancelled(cause=cause):
                reason = "cancelled"
            case JobFailed(kind=kind, error=error, scope=scope):
                failed = GenerationFailed(job_id=self.id, kind=kind, error=error, scope=scope)
                raise failed from record.failure
            case other:
                raise RuntimeError(f"job {self.id!r} ended with {other!r}, which is not a terminal event")
        tokens = [event for event in events if isinstance(event, TokenGenerated)]
        times = self.statistics()
        return Result(
            job_id=self.id,
            token_ids=tuple(token.token_id for token in tokens),
            text="".join(token.text for token in tokens),
            reason=reason,
            cause=cause,
            receipt=record.receipt,
            timings=Timings(queued=times.queued, first_token=times.first_token, total=times.total),
        )

    def statistics(self) -> JobStatistics:
        """Return the job's timings and counts now; after its end they stay the same."""
        return job_statistics(self._record, now=self._clock())

    def cancel(self) -> None:
        """Stop the job; returns at once, any number of times, also after the end.

        A queued job is cancelled on the spot. A running one within one decode step: its sequence is
        released, then `JobCancelled` follows the tokens decoded until then. A job whose last step was
        already in flight ends as `JobDone`, because its reply is complete.
        """
        self._cancel()
