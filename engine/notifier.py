"""The one way in which tasks of the event loop wait for each other here. Not for other threads."""

from __future__ import annotations

import anyio


class Wakeup:
    """An `anyio.Event` that every ring replaces: wakes all who wait now, and none who come later.

    No ring is lost to a waiter that looks at its condition and calls `wait` without an await in between.
    The event is made only when somebody waits, so a ring that nobody hears costs next to nothing.
    """

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    def ring(self) -> None:
        """Wake all waiting tasks."""
        if self._event is not None:
            self._event.set()
            self._event = None

    async def wait(self) -> None:
        """Wait for the next ring; cancelling the wait has no side effect."""
        if self._event is None:
            self._event = anyio.Event()
        await self._event.wait()
