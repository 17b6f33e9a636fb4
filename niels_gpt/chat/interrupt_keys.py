"""Keys while no prompt is active: ctrl-c and Esc interrupt, everything else waits for the next prompt.

The terminal is in raw mode meanwhile, so ctrl-c is a key and no signal: a signal handler installed before a
prompt of prompt-toolkit ran would no longer be called after it. For asyncio.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prompt_toolkit.input import Input
from prompt_toolkit.input.typeahead import store_typeahead
from prompt_toolkit.key_binding import KeyPress
from prompt_toolkit.keys import Keys

# A terminal sends Esc alone, and also as the first byte of longer keys, which follow at once.
ESCAPE_SECONDS = 0.05


@contextmanager
def listening(source: Input, on_interrupt: Callable[[], None]) -> Iterator[None]:
    """Read the keys of `source` inside of the block; `on_interrupt` may be called more than once."""
    loop = asyncio.get_running_loop()
    flush: asyncio.TimerHandle | None = None

    def take(presses: list[KeyPress]) -> None:
        kept: list[KeyPress] = []
        for index, press in enumerate(presses):
            # Esc before another key is that key with Alt.
            alone = index + 1 == len(presses)
            if press.key == Keys.ControlC or (press.key == Keys.Escape and alone):
                on_interrupt()
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
            # An Esc that came too late to interrupt would turn the next key into another one.
            store_typeahead(source, [press for press in source.flush_keys() if press.key != Keys.Escape])
