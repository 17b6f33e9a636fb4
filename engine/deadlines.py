"""Times at which jobs must have started or ended, on the engine's clock.

A heap of times, so that a slice asks for the earliest one without looking at every job. A time that no longer
counts stays in the heap until it is the earliest or until most of the heap is such times: then they are
dropped, so that a long deadline keeps nothing of a job that has ended.
"""

from __future__ import annotations

import heapq
import math
from typing import Literal

Kind = Literal["end", "start"]


class Deadlines:
    """At most two times for every job: its end, and the end of its waiting in the queue."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, str, Kind]] = []
        self._times: dict[tuple[str, Kind], float] = {}  # those that count

    def set(self, job_id: str, *, at: float, queue: float | None, whole: float | None) -> None:
        """Give a job that is submitted `at` this many seconds until its start, and until its end."""
        limits: tuple[tuple[Kind, float | None], ...] = (("start", queue), ("end", whole))
        for kind, seconds in limits:
            if seconds is not None:
                self._times[job_id, kind] = at + seconds
                heapq.heappush(self._heap, (at + seconds, job_id, kind))

    def started(self, job_id: str) -> None:
        """Remove the queue deadline of a job that started."""
        self._remove(job_id, "start")

    def ended(self, job_id: str) -> None:
        """Remove a job."""
        self._remove(job_id, "start")
        self._remove(job_id, "end")

    @property
    def next(self) -> float:
        """The earliest of all times; infinity if there is none."""
        while self._heap and not self._counts(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else math.inf

    def pop_due(self, now: float) -> list[str]:
        """Remove the jobs whose time has come; return them, the earliest first."""
        due: list[str] = []
        while self.next <= now:
            _, job_id, _ = self._heap[0]
            self.ended(job_id)
            due.append(job_id)
        return due

    def _remove(self, job_id: str, kind: Kind) -> None:
        self._times.pop((job_id, kind), None)
        if len(self._heap) > 2 * len(self._times) + 8:
            self._heap = [entry for entry in self._heap if self._counts(entry)]
            heapq.heapify(self._heap)

    def _counts(self, entry: tuple[float, str, Kind]) -> bool:
        at, job_id, kind = entry
        return self._times.get((job_id, kind)) == at


def check_seconds(name: str, seconds: float | None) -> None:
    """Raise `ValueError` unless a caller may request a deadline this many seconds from now."""
    if seconds is not None and not seconds >= 0:  # NaN too
        raise ValueError(f"{name} is a number of seconds from now, at least 0, or None; got {seconds!r}")
