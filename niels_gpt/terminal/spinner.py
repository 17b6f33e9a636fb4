"""Show a spinner during a long operation.

For asyncio: a timer of the loop redraws it, so nothing has to be awaited and no task can fail.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from niels_gpt.terminal.render import Screen

# Faster operations show no spinner, so they do not flicker.
STEP_SECONDS = 0.1
_FRAMES = "|/-\\"


@contextmanager
def spinning(screen: Screen, label: Callable[[], str]) -> Iterator[None]:
    """Show `label()` with a spinner while the block runs, or until a reply's first text is printed."""
    loop = asyncio.get_running_loop()
    frames = itertools.cycle(_FRAMES)

    def turn() -> None:
        nonlocal timer
        if screen.busy(f"{next(frames)} {label()}"):
            timer = loop.call_later(STEP_SECONDS, turn)

    screen.wait()
    timer = loop.call_later(STEP_SECONDS, turn)
    try:
        yield
    finally:
        timer.cancel()
        screen.idle()
