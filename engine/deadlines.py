"""When jobs must have started or ended: times by job, on the engine's clock.

Only live jobs are held, so that a long deadline keeps nothing of a job that has ended.
"""

from __future__ import annotations

import math


class Deadlines:
    """For every job at most two times: its end, and the end of its waiting in the queue."""

    def __init__(self) -> None:
        self._end: dict[str, float] = {}
        self._start: dict[str, float] = {}

    def set(self, job_id: str, *, at: float, queue: float | None, whole: float | None) -> None:
        """Give a job that is submitted `at` so many seconds until its start, and until its end."""
        for seconds, times in ((queue, self._start), (whole, self._end)):
            if seconds is not None:
                times[job_id] = at + seconds

    def started(self, job_id: str) -> None:
        """Let a job out of the queue in time."""
        self._start.pop(job_id, None)

    def ended(self, job_id: str) -> None:
        """Forget a job."""
        self._start.pop(job_id, None)
        self._end.pop(job_id, None)

    @property
    def next(self) -> float:
        """The earliest of all times; infinity if there is none."""
        return min((*self._start.values(), *self._end.values()), default=math.inf)

    def past(self, now: float) -> list[str]:
        """Take out the jobs whose time has come."""
        both = (self._end, self._start)
        late = list(dict.fromkeys(job_id for times in both for job_id, at in times.items() if at <= now))
        for job_id in late:
            self.ended(job_id)
        return late


def check_seconds(name: str, seconds: float | None) -> None:
    """Raise `ValueError` unless a caller may ask for a deadline of so many seconds."""
    if seconds is not None and not seconds >= 0:  # NaN too
        raise ValueError(f"{name} is a number of seconds from now, at least 0, or None; got {seconds!r}")
