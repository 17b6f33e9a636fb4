"""Show the progress of a run on standard error: a bar in a terminal, one line at the end elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

WIDTH = 24


class Progress:
    """Counts replies, or other units, and tokens, and shows them."""

    def __init__(
        self,
        total: int,
        stream: TextIO,
        *,
        done: int = 0,
        unit: str = "replies",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start with `done` of `total` replies finished by an earlier run.

        Args:
            total: How many there are.
            stream: Where to show it.
            done: How many are finished already.
            unit: The noun of what is counted.
            clock: Returns seconds.

        """
        self._unit = unit
        self._total, self._done, self._from_before = total, done, done
        self._stream, self._clock = stream, clock
        self._tokens, self._began = 0, clock()
        self._bar = stream.isatty()

    def add(self, *, replies: int, tokens: int = 0) -> None:
        """Count finished replies."""
        self._done += replies
        self._tokens += tokens
        if self._bar:
            filled = WIDTH * self._done // max(1, self._total)
            self._stream.write(f"\r[{'#' * filled}{'.' * (WIDTH - filled)}] {self._summary()}\x1b[K")
            self._stream.flush()

    def finish(self) -> None:
        """End the bar, or print the summary."""
        self._stream.write("\n" if self._bar else f"{self._summary()}\n")
        self._stream.flush()

    def _summary(self) -> str:
        seconds = max(1e-9, self._clock() - self._began)
        fresh = self._done - self._from_before
        text = f"{self._done:,} of {self._total:,} {self._unit}"
        if self._tokens:
            text += f", {self._tokens / seconds:,.0f} tokens/s"
        if fresh and self._done < self._total:
            left = seconds / fresh * (self._total - self._done)
            text += f", {int(left) // 60}:{int(left) % 60:02d} left"
        return text
