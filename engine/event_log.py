"""Append-only logs of events, and cursors that follow them from any offset.

The engine writes a log, and any number of cursors read it, each with its own position. A slow or dropped
reader costs the others nothing, and a late one starts at any event. A cursor returns an event without an
await between reading and counting it, so no cancellation can lose one. A job's log keeps everything; the log
over all jobs keeps the newest `capacity` events. Everything happens on the event loop's thread.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Self

import anyio
import anyio.lowlevel

from engine.errors import SubscriberLagged
from engine.events import Event

# After this many events without waiting, a cursor lets other tasks run.
YIELD_EVERY = 32


class Notifier:
    """A condition of one event loop, without a lock: wakes all tasks that wait now, none that come later.

    No notification is lost to a waiter that looks at its condition and calls `wait` without an await in
    between. The event is made only when a task waits, so a notification without waiters costs next to
    nothing.
    """

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    def notify_all(self) -> None:
        """Wake all waiting tasks."""
        if self._event is not None:
            self._event.set()
            self._event = None

    async def wait(self) -> None:
        """Wait for the next notification; cancelling the wait has no side effect."""
        if self._event is None:
            self._event = anyio.Event()
        await self._event.wait()


class EventLog:
    """Events numbered from 0. `capacity` None keeps all of them, otherwise the newest `capacity`."""

    def __init__(self, capacity: int | None = None) -> None:
        self._capacity = capacity
        self._slots: list[Event] = []  # circular once it holds `capacity` events
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
        """Let cursors end after the last event; closing again has no effect."""
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

    It may be dropped at any time. `close`, or leaving its `with` block, reports at once that this follower is
    gone, which matters to a job that is cancelled when abandoned. After the last event of a closed log, or
    once it is closed itself, it raises `StopAsyncIteration`, every time. If the log has dropped events that
    this cursor has not read, it raises `SubscriberLagged` once and continues with the oldest event held. One
    task at a time may wait on a cursor.
    """

    def __init__(self, log: EventLog, position: int, on_left: Callable[[], object] | None = None) -> None:
        """`on_left` is called once when the cursor is closed, or dropped on any thread."""
        self._on_left = None  # for a cursor whose constructor raises
        if position < 0:
            raise ValueError(f"events are numbered from 0, so a cursor cannot start at {position!r}")
        self._log = log
        self._unbroken = 0  # events returned since other tasks last had a chance to run
        self.position = position
        """Number of the event that comes next."""
        self._closed = False
        self._on_left = on_left

    def close(self) -> None:
        """Stop following; closing again has no effect."""
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
