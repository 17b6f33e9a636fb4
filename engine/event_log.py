"""Append-only logs of events, and cursors that follow them from any offset.

A log is written by the engine and read by any number of cursors, each with its own position: a slow or
vanished reader costs nobody anything, a late one starts where it likes, and an event is handed over without
an await between taking and counting it, so no cancellation can lose one. A job's log keeps everything; the
log over all jobs is bounded by `capacity` events, whatever its readers do. Everything happens on the event
loop's thread.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Self

import anyio.lowlevel

from engine.errors import SubscriberLagged
from engine.events import Event
from engine.notifier import Notifier

# A cursor over events that are already there still lets other tasks run once in so many events.
YIELD_EVERY = 32


class EventLog:
    """Events numbered from 0. `capacity` None keeps all of them, otherwise the newest `capacity`."""

    def __init__(self, capacity: int | None = None) -> None:
        self._capacity = capacity
        self._slots: list[Event] = []  # a ring once `capacity` events are there
        self._notifier = Notifier()
        self.end = 0
        """Number of the next event: how many were ever appended."""
        self.closed = False
        """Whether no event will follow."""

    @property
    def first(self) -> int:
        """Number of the oldest event still held."""
        return self.end - len(self._slots)

    def append(self, event: Event) -> None:
        """Add an event and wake the cursors."""
        if self._capacity is None or len(self._slots) < self._capacity:
            self._slots.append(event)
        else:
            self._slots[self.end % self._capacity] = event
        self.end += 1
        self._notifier.notify_all()

    def close(self) -> None:
        """Let cursors end after the last event; again: no effect."""
        self.closed = True
        self._notifier.notify_all()

    def __getitem__(self, number: int) -> Event:
        """Return event `number`; `IndexError` unless `first <= number < end`."""
        if not self.first <= number < self.end:
            raise IndexError(f"event {number!r} is not held; the log holds {self.first} to {self.end - 1}")
        return self._slots[number if self._capacity is None else number % self._capacity]

    def snapshot(self) -> list[Event]:
        """Return the events held now, oldest first."""
        return [self[number] for number in range(self.first, self.end)]

    async def changed(self) -> None:
        """Wait until an event is appended or the log is closed."""
        await self._notifier.wait()


class Cursor(AsyncIterator[Event]):
    """An iterator object over a log, from `position` on.

    Dropping it at any time is fine; `close`, or leaving its `with` block, says at once that this follower is
    gone, which matters to a job that is cancelled when abandoned. After the last event of a closed log, or
    once it is closed itself, it raises `StopAsyncIteration`, and again whenever asked. Where the log has
    dropped what this cursor had not read yet, it raises `SubscriberLagged` once and goes on with the oldest
    event held. One task at a time may wait on a cursor.
    """

    def __init__(self, log: EventLog, position: int, on_left: Callable[[], object] | None = None) -> None:
        """`on_left` is called once when the cursor is closed, or dropped on whichever thread."""
        self._on_left = None  # nothing to say for a cursor that was never made
        if position < 0:
            raise ValueError(f"events are numbered from 0, so a cursor cannot start at {position!r}")
        self._log = log
        self._unbroken = 0  # events handed out since other tasks last had a chance to run
        self.position = position
        """Number of the event that comes next."""
        self._closed = False
        self._on_left = on_left

    def close(self) -> None:
        """Follow no more; again: no effect."""
        self._closed = True
        on_left, self._on_left = self._on_left, None
        if on_left is not None:
            on_left()

    def __del__(self) -> None:
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __aiter__(self) -> Cursor:
        return self

    async def __anext__(self) -> Event:
        log = self._log
        if self._closed:
            raise StopAsyncIteration
        if self._unbroken >= YIELD_EVERY:
            self._unbroken = 0
            await anyio.lowlevel.checkpoint()
        while self.position >= log.end:
            if log.closed:
                raise StopAsyncIteration
            self._unbroken = 0
            await log.changed()
        if self.position < log.first:
            missed = log.first - self.position
            self.position = log.first
            raise SubscriberLagged(missed)
        event = log[self.position]
        self.position += 1
        self._unbroken += 1
        return event
