"""The exit statuses of `niels-chat` and `niels-generate`, in one table, and their error boundary."""

from __future__ import annotations

import signal
from collections.abc import Callable

from niels_gpt import program as boundary
from niels_gpt.program import BROKEN_PIPE, FAILED, HUNG_UP, INTERNAL, INTERRUPTED, OK, TERMINATED, USAGE
from niels_gpt.replay.verdict import Kind

DIVERGED, UNVERIFIABLE = 3, 4

MEANINGS: dict[int, str] = {
    OK: "done",
    FAILED: "failed; standard error says why, in one line",
    USAGE: "a wrong flag or argument; nothing was done",
    DIVERGED: "a replay or a verification found a difference",
    UNVERIFIABLE: "a replay could not judge: different weights or a different tokenizer",
    INTERNAL: "an internal error, a bug in niels-gpt; `NIELS_DEBUG=1` shows the traceback",
    HUNG_UP: "the terminal was closed (SIGHUP)",
    INTERRUPTED: "interrupted with ctrl-c",
    BROKEN_PIPE: "the program that read the output ended first",
    TERMINATED: "asked to end (SIGTERM); finished replies and the one in progress are stored",
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
"""The status of the chat after a signal that ends it in order; a system may lack one of them."""


def run_to_status(program: str, work: Callable[[], int]) -> int:
    """Run `work` and return its exit status, or the status of how it ended.

    Args:
        program: The name that begins the line of an error.
        work: The command.

    """
    return boundary.run(program, work, expected=_errors_of_the_store)


def _errors_of_the_store() -> boundary.ErrorClasses:
    # Heavy; where there is no error, a command may never need it.
    from sessions import StoreError  # noqa: PLC0415

    return (StoreError,)
