"""What a caller of the engine holds: a job, and the result it comes to.

A job goes on whether or not anybody follows it, and stays readable after the engine is gone. Knows nothing of
decoders and threads. For the event loop's thread only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from engine.errors import GenerationFailed
from engine.events import Event, FinishReason, JobCancelled, JobDone, JobFailed, JobStarted, TokenGenerated
from engine.log import Cursor
from engine.record import JobRecord
from engine.states import JobState


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
    """A reply, whole or cancelled; what a cancelled job said before the cancel is here too."""

    job_id: str
    token_ids: tuple[int, ...]
    text: str
    reason: FinishReason | Literal["cancelled"]
    receipt: Mapping[str, object]
    timings: Timings


class Job:
    """A submitted request. Made by `Engine.submit`."""

    # The record may carry any type of request: a job's caller never gets it back.
    def __init__(self, record: JobRecord[object], cancel: Callable[[], None]) -> None:
        self._record = record
        self._cancel = cancel

    def __repr__(self) -> str:
        return f"<Job {self.id!r} {self.state.value}>"

    @property
    def id(self) -> str:
        """Name of the job, unique within its engine."""
        return self._record.id

    @property
    def state(self) -> JobState:
        """Where the job stands now."""
        return self._record.state

    def events(self, start: int = 0) -> Cursor:
        """Return an iterator over the job's events from `seq` `start` through the terminal one.

        As many and as late as you like, also after the end or after the engine is left; each has its own
        position. A negative `start` is a `ValueError`; one beyond the last event ends the iteration when
        the job ends.
        """
        return Cursor(self._record.log, start)

    async def result(self) -> Result:
        """Wait for the end and return the reply; `GenerationFailed`, from its cause, if the job failed.

        Cancelling the wait does not cancel the job.
        """
        await self._record.ended.wait()
        events = self._record.log.snapshot()
        match events[-1]:
            case JobDone(reason=reason, receipt=receipt):
                pass
            case JobCancelled(receipt=receipt):
                reason = "cancelled"
            case JobFailed(kind=kind, error=error):
                raise GenerationFailed(job_id=self.id, kind=kind, error=error) from self._record.cause
            case other:
                raise RuntimeError(f"job {self.id!r} ended with {other!r}, which is no terminal event")
        tokens = [event for event in events if isinstance(event, TokenGenerated)]
        return Result(
            job_id=self.id,
            token_ids=tuple(token.token_id for token in tokens),
            text="".join(token.text for token in tokens),
            reason=reason,
            receipt=receipt,
            timings=_timings(events),
        )

    def cancel(self) -> None:
        """Stop the job; returns at once, any number of times, also after the end.

        A queued job is cancelled on the spot. A running one within one decode step: its sequence is
        released, then `JobCancelled` follows the tokens decoded until then. A job whose last step was
        already in flight ends as `JobDone`, because its reply is whole.
        """
        self._cancel()


def _timings(events: list[Event]) -> Timings:
    """Read the timings of an ended job off its events."""
    submitted, ended = events[0].at, events[-1].at
    started = next((event.at for event in events if isinstance(event, JobStarted)), ended)
    first = next((event.at for event in events if isinstance(event, TokenGenerated)), None)
    return Timings(
        queued=started - submitted,
        first_token=None if first is None else first - submitted,
        total=ended - submitted,
    )
