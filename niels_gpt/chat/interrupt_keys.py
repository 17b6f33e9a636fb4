"""Keys while no prompt is active: Ctrl-C and Esc interrupt, Ctrl-Z suspends, others wait for the prompt.

The terminal is in raw mode meanwhile, so Ctrl-C is a key and no signal: a signal handler installed before a
prompt of prompt-toolkit ran would no longer be called after it. For asyncio.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prompt_toolkit.input import Input
from prompt_toolkit.input.typeahead import store_typeahead
from prompt_toolkit.input.vt100_parser import Vt100Parser
from prompt_toolkit.key_binding import KeyPress
from prompt_toolkit.keys import Keys

# A terminal sends Esc alone, and also as the first byte of longer keys, which follow at once.
ESCAPE_SECONDS = 0.05


@contextmanager
def listening(
    source: Input,
    on_interrupt: Callable[[], None],
    *,
    before_suspend: Callable[[], None] = lambda: None,
    after_suspend: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Read the keys of `source` inside of the block.

    Args:
        source: Where the keys come from.
        on_interrupt: Called at each Ctrl-C and Esc.
        before_suspend: Called before Ctrl-Z stops the process.
        after_suspend: Called when it was continued.
    """
    loop = asyncio.get_running_loop()
    flush: asyncio.TimerHandle | None = None

    def take(presses: list[KeyPress]) -> None:
        kept: list[KeyPress] = []
        for index, press in enumerate(presses):
            # Esc before another key is that key with Alt.
            alone = index + 1 == len(presses)
            if press.key == Keys.ControlC or (press.key == Keys.Escape and alone):
                on_interrupt()
            elif press.key == Keys.ControlZ:
                before_suspend()
                _suspend(source)
                after_suspend()
            elif press.key != Keys.CPRResponse:
                kept.append(press)
        store_typeahead(source, kept)

    def on_keys() -> None:
        nonlocal flush
        if flush is not None:
            flush.cancel()
        take(source.read_keys())
        flush = loop.call_later(ESCAPE_SECONDS, lambda: take(source.flush_keys()))

    with source.raw_mode(), source.attach(on_keys):
        try:
            yield
        finally:
            if flush is not None:
                flush.cancel()
            # An Esc that came too late to interrupt would change the meaning of the next key.
            store_typeahead(source, [press for press in source.flush_keys() if press.key != Keys.Escape])


def keys_of(typed: bytes) -> list[KeyPress]:
    """Return the keys that bytes from a terminal stand for."""
    presses: list[KeyPress] = []
    parser = Vt100Parser(presses.append)
    parser.feed_and_flush(typed.decode("utf-8", errors="surrogateescape"))
    return presses


def _suspend(source: Input) -> None:
    """Stop the process as Ctrl-Z does elsewhere; the whole group, so that the shell takes over."""
    if hasattr(signal, "SIGTSTP"):
        with source.cooked_mode():
            os.kill(0, signal.SIGTSTP)
