"""Choose from measured times how many threads share a step and how much of a prompt one call reads.

Steps are timed as they run. Both choices change only the time, never a bit.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

MAX_THREADS = 2
"""The maximum number of threads by default; more were never measured to be faster."""
TURNS = 4  # calls of each way in a trial
FEWEST_CALLS, MOST_CALLS = 64, 8192  # from one trial to the next
WORTH = 0.9  # share of one thread's time: a few percent are not worth a second busy processor
CALL_SECONDS = 0.03
"""The time that one call may read a prompt."""
MAX_CHUNK = 512  # rows of a call
MIN_CHUNK = 16  # fewer would read all weights for too little


def default_threads() -> int:
    """Return how many threads may share a step: one for each usable processor, at most MAX_THREADS."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MAX_THREADS, usable)


class ThreadTuner:
    """Chooses between one thread and `many`, from the times that calls of one kind took.

    On an idle machine two threads need about two thirds of the time of one; on a busy one they wait for each
    other longer than they save. So both ways are tried in turns and the faster one is kept. Trials are
    repeated, less and less often while they have the same result.
    """

    def __init__(self, many: int) -> None:
        self._many = many
        self._chosen = 1
        self._rest, self._calls = 0, FEWEST_CALLS  # calls left until the next trial, and from one to the next
        self._alone: list[float] = []
        self._together: list[float] = []
        self._probed = False
        self._bar = self._lately = 0.0

    def next(self) -> int:
        """Return how many threads the next call should have; `record` must follow."""
        if self._rest:
            return self._chosen
        turns = len(self._together) + self._probed
        return 1 if len(self._alone) <= turns else self._many

    @property
    def probing(self) -> bool:
        """Whether the next call is a trial's first with many: on a busy machine it may take very long."""
        return self._rest == 0 and not self._probed and bool(self._alone)

    def record(self, threads: int, seconds: float) -> None:
        """Record how long that call took, for each of its steps."""
        if self._rest == 0:
            self._try(threads, seconds)
            return
        self._rest -= 1
        self._lately += (seconds - self._lately) / TURNS
        if self._chosen > 1 and self._lately > self._bar:  # the machine has become busy
            self._rest, self._calls = 0, FEWEST_CALLS

    def _try(self, threads: int, seconds: float) -> None:
        if threads == 1:
            self._alone.append(seconds)
            return
        if self._probed:
            self._together.append(seconds)
        self._probed = True
        spent = sum(self._together) or seconds
        if spent > WORTH * TURNS * sum(self._alone) / len(self._alone):
            self._choose(1)
        elif len(self._together) == TURNS:
            self._choose(self._many)

    def _choose(self, threads: int) -> None:
        self._calls = min(2 * self._calls, MOST_CALLS) if threads == self._chosen else FEWEST_CALLS
        self._chosen, self._rest = threads, self._calls
        self._bar = sum(self._alone) / len(self._alone)
        self._lately = sum(self._together) / TURNS
        self._alone, self._together, self._probed = [], [], False


class StepThreads:
    """Runs steps on one thread or on several, this one among them."""

    def __init__(self, threads: int | None) -> None:
        """Use exactly `threads` threads; None: as many as are faster, up to `default_threads`."""
        self.threads = default_threads() if threads is None else threads
        """The maximum number of threads that share a step."""
        self._tuners: dict[int, ThreadTuner] | None = {} if threads is None and self.threads > 1 else None
        self._helpers = ThreadPoolExecutor(self.threads - 1, "kernels") if self.threads > 1 else None

    def run(
        self,
        work: Callable[..., int],
        *arguments: object,
        rows: int,
        steps: int,
        release: Callable[[], object] = lambda: None,
    ) -> tuple[int, float]:
        """Call work(*arguments, steps, part, parts) for all parts at once; return (steps done, seconds each).

        Fewer steps than requested may be done. Calls with a similar number of `rows` are timed together. If a
        part raises, `release` must free the parts that wait for it; its error is raised once all have ended.
        """
        tuner = (
            None
            if self._tuners is None
            else self._tuners.setdefault(rows.bit_length(), ThreadTuner(self.threads))
        )
        parts = self.threads if tuner is None else tuner.next()
        if tuner is not None and tuner.probing:
            steps = 1
        began = time.perf_counter()
        done = self._together(work, (*arguments, steps), parts, release)
        seconds = (time.perf_counter() - began) / done
        if tuner is not None:
            tuner.record(parts, seconds)
        return done, seconds

    def _together(
        self,
        work: Callable[..., int],
        arguments: tuple[object, ...],
        parts: int,
        release: Callable[[], object],
    ) -> int:
        if self._helpers is None or parts == 1:
            return work(*arguments, 0, 1)

        def helper(part: int) -> None:
            try:
                work(*arguments, part, parts)
            except BaseException:
                release()
                raise

        others: list[Future[None]] = []
        try:
            for part in range(1, parts):
                others.append(self._helpers.submit(helper, part))  # noqa: PERF401 - those before one that fails
            done = work(*arguments, 0, parts)
            for other in others:
                other.result()
        except BaseException:
            release()
            wait(others)  # no thread may still write to memory that the caller reuses
            raise
        return done

    def close(self) -> None:
        """End the other threads; closing again has no effect."""
        if self._helpers is not None:
            self._helpers.shutdown()


class PrefillBudget:
    """How many tokens of a prompt one call reads, adapted to measured times.

    Every call reads all weights, so a prompt is read fastest in one call. But no sequence can join, leave or
    be cancelled while a call runs. So a prompt that is alone is read in chunks of about equal length, sized
    by the measured times of earlier calls to take `CALL_SECONDS`.
    """

    def __init__(self, usual: int) -> None:
        """Create a budget; `usual` tokens are read while other prompts wait, and until a call was timed."""
        self._usual = usual
        self._longest = usual
        self._affordable = usual

    def next(self, unread: int) -> int:
        """Return how many of `unread` tokens to read now, so that no short chunk remains for the end."""
        calls = max(1, round(unread / self._longest))
        return min(-(-unread // calls), MAX_CHUNK)

    @property
    def shared(self) -> int:
        """The tokens to read in a call while other sequences wait; fewer for a slow model."""
        return min(self._usual, max(MIN_CHUNK, self._affordable))

    def record(self, tokens: int, seconds: float) -> None:
        """Record how long reading so many tokens took; calls with few tokens are ignored."""
        if 2 * tokens >= self._usual:
            self._affordable = int(tokens * CALL_SECONDS / max(seconds, 1e-9))
            self._longest = max(self._usual, min(self._affordable, MAX_CHUNK))
        elif tokens >= MIN_CHUNK:  # a call that others waited for
            self._affordable = int(tokens * CALL_SECONDS / max(seconds, 1e-9))
