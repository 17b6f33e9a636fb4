"""How tasks of the event loop wait for each other. Not for other threads."""

from __future__ import annotations

import anyio


class Notifier:
    """A condition without a lock: wakes all tasks that wait now, and none that come later.

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
