"""The states of a job and every legal transition, in one literal that a reader can audit."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


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
