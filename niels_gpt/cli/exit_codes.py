"""How `niels-chat` and its subcommands end: one table of exit statuses, and the one place that maps to them.

Whatever goes wrong is one line on standard error and a status of this table, never a traceback. Knows
neither what is done nor how it is shown.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

from niels_gpt.conversation.errors import ChatError
from niels_gpt.replay.verdict import Kind
from niels_gpt.terminal.render import Screen

OK, FAILED, USAGE, DIVERGED, UNVERIFIABLE = 0, 1, 2, 3, 4
HUNG_UP, INTERRUPTED, BROKEN_PIPE, TERMINATED = 129, 130, 141, 143

MEANINGS: dict[int, str] = {
    OK: "done",
    FAILED: "something could not be done; standard error says what, in one line",
    USAGE: "a wrong flag or argument; nothing was done",
    DIVERGED: "a replay or a verification found a difference",
    UNVERIFIABLE: "a replay could not judge: other weights or another tokenizer",
    HUNG_UP: "the terminal was closed (SIGHUP)",
    INTERRUPTED: "interrupted with ctrl-c",
    BROKEN_PIPE: "whoever read the output went away",
    TERMINATED: "asked to end (SIGTERM); what was said is stored",
}
"""What each status means, for the help and the documents."""

STATUS_OF_VERDICT: dict[Kind, int] = {
    "exact": OK,
    "tokens_only": OK,
    "diverged": DIVERGED,
    "unverifiable": UNVERIFIABLE,
}
"""The status of a replay by its verdict."""

STATUS_OF_SIGNAL: dict[int, int] = {
    number: status
    for name, status in (("SIGHUP", HUNG_UP), ("SIGTERM", TERMINATED))
    if (number := getattr(signal, name, None)) is not None
}
"""How a signal that ends the chat in order becomes a status; a system may lack one of them."""


def run_to_status(program: str, work: Callable[[], int]) -> int:
    """Run `work` and return its status, or the one of how it ended; `program` begins the error's line."""
    try:
        status = work()
        # Inside of the try: a reader that went away shows itself in the last flush.
        sys.stdout.flush()
    except ChatError as error:
        report(program, error)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # What is still buffered has no reader: let the interpreter's last flush go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return status


def report(program: str, error: ChatError) -> None:
    """Print an error as one harmless line on standard error."""
    Screen(sys.stderr, sys.stderr, styled=False).error(f"{program}: {error}")
