"""The engine's own record of a job: its state, its log, and the only code that publishes its events.

Each method is one legal step in a job's life: it moves the state, appends the event to the job's log, then
to the log over all jobs. Knows nothing of decoders and threads; runs on the event loop's thread only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

import anyio

from engine.events import (
    Event,
    FinishReason,
    JobCancelled,
    JobDone,
    JobFailed,
    JobQueued,
    JobStarted,
    TokenGenerated,
)
from engine.log import EventLog
from engine.states import JobState, check_transition

RequestT = TypeVar("RequestT")


class JobRecord(Generic[RequestT]):
    """One job, from its JobQueued event on."""

    def __init__(self, *, job_id: str, request: RequestT, at: float, feed: EventLog) -> None:
        self.id = job_id
        self.request = request
        self.state = JobState.QUEUED
        self.log = EventLog()
        self.ended = anyio.Event()
        """Set after the terminal event."""
        self.cause: BaseException | None = None
        """What failed the job."""
        self._feed = feed
        self._tokens = 0
        self._publish(JobQueued(job_id=self.id, seq=0, at=at))

    def start(self, at: float) -> None:
        """Queued to running."""
        self._move(JobState.RUNNING)
        self._publish(JobStarted(job_id=self.id, seq=self.log.end, at=at))

    def ask_to_cancel(self) -> None:
        """Running to cancelling; nothing is published before the compute thread released the sequence."""
        self._move(JobState.CANCELLING)

    def add_tokens(self, tokens: Sequence[tuple[int, str]], at: float) -> None:
        """Publish what one step decoded."""
        for token_id, text in tokens:
            index = self._tokens
            self._tokens += 1
            seq = self.log.end
            self._publish(
                TokenGenerated(job_id=self.id, seq=seq, at=at, token_id=token_id, text=text, index=index)
            )

    def finish(self, reason: FinishReason, receipt: Mapping[str, object], at: float) -> None:
        """End with a whole reply."""
        self._end(
            JobState.DONE, JobDone(job_id=self.id, seq=self.log.end, at=at, reason=reason, receipt=receipt)
        )

    def cancelled(self, receipt: Mapping[str, object], at: float) -> None:
        """End before the reply was whole."""
        self._end(JobState.CANCELLED, JobCancelled(job_id=self.id, seq=self.log.end, at=at, receipt=receipt))

    def fail(self, cause: BaseException, at: float) -> None:
        """End with an error."""
        self.cause = cause
        kind, error = type(cause).__name__, str(cause) or repr(cause)
        self._end(JobState.FAILED, JobFailed(job_id=self.id, seq=self.log.end, at=at, error=error, kind=kind))

    def _end(self, state: JobState, event: Event) -> None:
        self._move(state)
        self._publish(event)
        self.log.close()
        self.ended.set()

    def _move(self, state: JobState) -> None:
        check_transition(self.id, self.state, state)
        self.state = state

    def _publish(self, event: Event) -> None:
        self.log.append(event)
        self._feed.append(event)
