"""Keep what is typed before the first prompt, and nothing of it on the screen.

Until prompt-toolkit takes the terminal over, the system edits lines itself: it shows what is typed, and
turns the Enter that ends a line into a newline, which in the prompt means another line of the same message.
So the terminal is switched to single keys first of all, what waited until then is handed on with its Enters
as they were pressed, and between two prompts nothing is echoed.
"""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from contextlib import contextmanager

try:
    import termios
except ImportError:  # Windows: its console hands keys over as they are
    termios = None

_MOST = 1 << 16


@contextmanager
def single_keys(descriptor: int) -> Iterator[bytes]:
    """Switch a terminal to single keys without echo inside of the block, which gets what waited before.

    Where that cannot be done (no terminal, no termios) it gets nothing, and nothing changes.
    """
    if termios is None:
        yield b""
        return
    try:
        before = termios.tcgetattr(descriptor)
    except termios.error:
        yield b""
        return
    attributes = list(before)
    attributes[0] &= ~termios.ICRNL
    attributes[3] &= ~(termios.ICANON | termios.ECHO)
    try:
        # At once, and without throwing away what was typed.
        termios.tcsetattr(descriptor, termios.TCSANOW, attributes)
        yield _waiting(descriptor).replace(b"\n", b"\r")
    finally:
        _restore(descriptor, before)


def _waiting(descriptor: int) -> bytes:
    if not select.select([descriptor], [], [], 0)[0]:
        return b""
    return os.read(descriptor, _MOST)


def _restore(descriptor: int, attributes: list) -> None:
    if termios is not None:
        try:
            termios.tcsetattr(descriptor, termios.TCSADRAIN, attributes)
        except termios.error:  # the terminal has hung up
            return
