"""The states of a job, every legal transition, and the engine's own record of a job.

The record is the only code that publishes a job's events. Each of its methods is one legal transition: it
moves the state, appends the event to the job's log, then to the log over all jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Generic, TypeVar

import anyio

from engine.errors import readable
from engine.event_log import Cursor, EventLog
from engine.events import (
    CancelCause,
    Event,
    FailureScope,
    FinishReason,
    JobCancelled,
    JobDone,
    JobFailed,
    JobQueued,
    JobStarted,
    TokenGenerated,
)

RequestT = TypeVar("RequestT")


class JobState(Enum):
    """State of a job."""

    QUEUED = "queued"  # accepted, waiting for a place in the batch
    RUNNING = "running"  # handed to the compute thread
    CANCELLING = "cancelling"  # cancel requested while running; the compute thread has not released it yet
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing can happen to the job any more."""
        return not TRANSITIONS[self]


TRANSITIONS: Mapping[JobState, frozenset[JobState]] = {
    # A queued job fails only if the engine itself dies.
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED, JobState.FAILED}),
    JobState.RUNNING: frozenset({JobState.CANCELLING, JobState.DONE, JobState.FAILED}),
    # DONE: the step that was in flight when the cancel came was the last one; the reply is complete.
    JobState.CANCELLING: frozenset({JobState.CANCELLED, JobState.DONE, JobState.FAILED}),
    JobState.DONE: frozenset(),
    JobState.CANCELLED: frozenset(),
    JobState.FAILED: frozenset(),
}


def check_transition(job_id: str, old: JobState, new: JobState) -> None:
    """Raise `RuntimeError`, a bug of the engine, unless a job may go from `old` to `new`."""
    if new not in TRANSITIONS[old]:
        legal = sorted(state.value for state in TRANSITIONS[old])
        raise RuntimeError(f"job {job_id!r} cannot go from {old.value!r} to {new.value!r}; legal: {legal}")


class JobRecord(Generic[RequestT]):
    """One job, from its JobQueued event on; times are seconds of the engine's clock."""

    def __init__(
        self,
        *,
        job_id: str,
        request: RequestT,
        at: float,
        feed: EventLog,
        on_left: Callable[[], object] | None = None,
    ) -> None:
        """`on_left` is called, on any thread, for every follower that is gone; None: they are not counted."""
        self.id = job_id
        self.request = request
        self.state = JobState.QUEUED
        self.log = EventLog()
        self.ended = anyio.Event()
        """Set after the terminal event."""
        self.cancel_cause: CancelCause = "requested"
        """Why it is cancelled, if it is: the first reason counts."""
        self.failure: BaseException | None = None
        """The error that failed the job."""
        self.queued_at = at
        self.started_at: float | None = None
        self.first_token_at: float | None = None
        self.last_token_at: float | None = None
        self.ended_at: float | None = None
        self.tokens = 0
        self.receipt: Mapping[str, object] = {}
        self.followers = 0
        """Cursors that are not closed or dropped, where they are counted."""
        self._feed = feed
        self._on_left = on_left
        self._publish(JobQueued(job_id=self.id, seq=0, at=at))

    @property
    def last_event_at(self) -> float:
        """Time of the newest event."""
        return self.log[self.log.end - 1].at

    def follow(self, start: int) -> Cursor:
        """Return a new cursor over the job's log."""
        cursor = Cursor(self.log, start, self._on_left)
        self.followers += 1
        return cursor

    def start(self, at: float) -> None:
        """Queued to running."""
        self._move(JobState.RUNNING)
        self.started_at = at
        self._publish(JobStarted(job_id=self.id, seq=self.log.end, at=at))

    def request_cancel(self, cause: CancelCause) -> None:
        """Running to cancelling; nothing is published before the compute thread released the sequence."""
        self._move(JobState.CANCELLING)
        self.cancel_cause = cause

    def add_tokens(self, tokens: Sequence[tuple[int, str]], at: float) -> None:
        """Publish what one step decoded, at least one token."""
        if self.first_token_at is None:
            self.first_token_at = at
        self.last_token_at = at
        for token_id, text in tokens:
            index = self.tokens
            self.tokens += 1
            seq = self.log.end
            self._publish(
                TokenGenerated(job_id=self.id, seq=seq, at=at, token_id=token_id, text=text, index=index)
            )

    def finish(self, reason: FinishReason, receipt: Mapping[str, object], at: float) -> None:
        """End with a whole reply."""
        event = JobDone(job_id=self.id, seq=self.log.end, at=at, reason=reason, receipt=receipt)
        self._end(JobState.DONE, event, receipt)

    def cancelled(self, receipt: Mapping[str, object], at: float) -> None:
        """End before the reply was whole."""
        seq, cause = self.log.end, self.cancel_cause
        event = JobCancelled(job_id=self.id, seq=seq, at=at, cause=cause, receipt=receipt)
        self._end(JobState.CANCELLED, event, receipt)

    def fail(self, error: BaseException, scope: FailureScope, at: float) -> None:
        """End with an error."""
        kind, message = type(error).__name__, readable(error, str, limit=10_000)
        seq = self.log.end
        event = JobFailed(job_id=self.id, seq=seq, at=at, error=message, kind=kind, scope=scope)
        self.failure = error
        self._end(JobState.FAILED, event, {})

    def _end(self, state: JobState, event: Event, receipt: Mapping[str, object]) -> None:
        self._move(state)
        self.ended_at, self.receipt = event.at, receipt
        self._publish(event)
        self.log.close()
        self.ended.set()

    def _move(self, state: JobState) -> None:
        check_transition(self.id, self.state, state)
        self.state = state

    def _publish(self, event: Event) -> None:
        self.log.append(event)
        self._feed.append(event)
