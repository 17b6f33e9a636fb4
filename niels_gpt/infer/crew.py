"""The threads that share a step, and how many of them do: more than one only where that measures faster.

On a machine with nothing else to do two threads need about two thirds of the time of one; on a busy one they
wait for each other longer than they save. So where nobody said how many, steps are timed as they run: both
ways are tried in turns, the faster one is kept, and they are tried again after a while, the more seldom the
more often it went the same way. Time alone depends on this, never a bit. Knows nothing of what a step
computes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

MOST = 2
"""Threads where nobody said how many: more were never measured to pay."""
TURNS = 4  # calls of each way in a trial
FEWEST_CALLS, MOST_CALLS = 32, 2048  # from one trial to the next
WORTH = 0.9  # of one thread's time: two keep two processors busy, which is not worth a few percent


def default_threads() -> int:
    """How many threads may share a step where nobody said: one for each usable processor, at most MOST."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST, usable)


class Pace:
    """Whether one thread or `many` take less time, from the times that calls of one kind took."""

    def __init__(self, many: int) -> None:
        self._many = many
        self._chosen = 1
        self._rest, self._calls = 0, FEWEST_CALLS  # calls left until the next trial, and from one to the next
        self._trial: dict[int, list[float]] = {1: [], many: []}
        self._alone = self._lately = 0.0

    def next(self) -> int:
        """How many threads the next call should have; `took` must follow."""
        if self._rest:
            return self._chosen
        return min(self._trial, key=lambda threads: len(self._trial[threads]))

    def took(self, threads: int, seconds: float) -> None:
        """Hear how long that call took, for each of its steps."""
        if self._rest == 0:
            self._trial[threads].append(seconds)
            self._judge()
            return
        self._rest -= 1
        self._lately += (seconds - self._lately) / TURNS
        if self._chosen > 1 and self._lately > self._alone:  # the machine has become busy
            self._rest, self._calls = 0, FEWEST_CALLS

    def _judge(self) -> None:
        alone, together = self._trial[1], self._trial[self._many]
        most = WORTH * sum(alone) / len(alone) * TURNS
        lost = sum(together) > most
        if not lost and len(together) < TURNS:
            return
        chosen = 1 if lost else self._many
        self._calls = min(2 * self._calls, MOST_CALLS) if chosen == self._chosen else FEWEST_CALLS
        self._chosen, self._rest = chosen, self._calls
        self._alone = sum(alone) / len(alone)
        self._lately = 0.0 if lost else sum(together) / len(together)
        self._trial = {1: [], self._many: []}


class Crew:
    """Runs steps on one thread or on several, this one among them."""

    def __init__(self, threads: int | None) -> None:
        """Exactly as many threads, or None: up to `default_threads`, as many as are faster."""
        self.threads = default_threads() if threads is None else threads
        """The most that share a step."""
        self._paces: dict[int, Pace] | None = {} if threads is None and self.threads > 1 else None
        self._helpers = ThreadPoolExecutor(self.threads - 1, "kernels") if self.threads > 1 else None

    def run(self, step: Callable[..., int], rows: int, *arguments: object) -> tuple[int, float]:
        """Call step(*arguments, part, parts) for all parts at once; what part 0 gives, and seconds for each.

        What it gives is the number of steps done. Calls with about as many `rows` count as of one kind.
        """
        pace = None if self._paces is None else self._paces.setdefault(rows.bit_length(), Pace(self.threads))
        parts = self.threads if pace is None else pace.next()
        began = time.perf_counter()
        done = self._together(step, arguments, parts)
        seconds = (time.perf_counter() - began) / done
        if pace is not None:
            pace.took(parts, seconds)
        return done, seconds

    def _together(self, step: Callable[..., int], arguments: tuple[object, ...], parts: int) -> int:
        if self._helpers is None or parts == 1:
            return step(*arguments, 0, 1)
        others = [self._helpers.submit(step, *arguments, part, parts) for part in range(1, parts)]
        done = step(*arguments, 0, parts)
        for other in others:
            other.result()
        return done

    def close(self) -> None:
        """End the other threads; closing again does nothing."""
        if self._helpers is not None:
            self._helpers.shutdown()
