"""End the chat in order on SIGTERM and SIGHUP: the reply is stored as cancelled, the terminal is restored.

For asyncio.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import anyio

from niels_gpt.cli.exit_codes import STATUS_OF_SIGNAL


class Ending:
    """Which signal came, if one did."""

    def __init__(self, scope: anyio.CancelScope) -> None:
        self._scope = scope
        self.status: int | None = None
        """The exit status that the signal asks for, None while none came."""

    def take(self, number: int) -> None:
        """End because of a signal; the first one counts."""
        if self.status is None:
            self.status = STATUS_OF_SIGNAL[number]
            self._scope.cancel()


@contextlib.contextmanager
def ending_on_signals(scope: anyio.CancelScope) -> Iterator[Ending]:
    """Cancel `scope` when the program is asked to end."""
    loop = asyncio.get_running_loop()
    ending = Ending(scope)
    # Windows has no handlers on its loops: there the system ends the program.
    with contextlib.suppress(NotImplementedError):
        for number in STATUS_OF_SIGNAL:
            loop.add_signal_handler(number, ending.take, number)
    try:
        yield ending
    finally:
        with contextlib.suppress(NotImplementedError):
            for number in STATUS_OF_SIGNAL:
                loop.remove_signal_handler(number)
