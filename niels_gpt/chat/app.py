"""The composition root: options in, a chat on the terminal or on a pipe, an exit status out.

Statuses are those of status.py. Knows what the parts are, and nothing of how they work.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable

from niels_gpt.chat.session_selection import with_picked
from niels_gpt.cli.exit_codes import INTERRUPTED
from niels_gpt.cli.options import FROM_INPUT
from niels_gpt.conversation.errors import LoadFailed
from niels_gpt.conversation.loader import Loader
from niels_gpt.conversation.options import ChatOptions, check_checkpoint, check_session_name
from niels_gpt.terminal.render import Screen, columns_of, may_style


def run(options: ChatOptions, *, make_loader: Callable[[ChatOptions], Loader] = Loader) -> int:
    """Chat as the options say and return the exit status. Raises ChatError."""
    check_session_name(options)
    check_checkpoint(options)
    chosen = with_picked(options) if options.pick else options
    return INTERRUPTED if chosen is None else _chat(chosen, make_loader(chosen))


def _chat(options: ChatOptions, loader: Loader) -> int:
    try:
        if options.prompt is None and _is_terminal():
            if options.as_events:
                raise LoadFailed("--json is for programs: give a message with -p TEXT, or lines on a pipe")
            # Here, not above: a pipe and --help are quicker without prompt-toolkit.
            from niels_gpt.chat.repl import run_on_terminal  # noqa: PLC0415

            screen = Screen(
                sys.stdout,
                sys.stdout,
                styled=may_style(sys.stdout),
                columns=columns_of(sys.stdout),
                quiet=options.quiet,
            )
            return run_on_terminal(options, loader, screen)
        from niels_gpt.chat.pipe import run_pipe  # noqa: PLC0415

        # Where both are the terminal they share its lines.
        notices = sys.stdout if sys.stdout.isatty() and sys.stderr.isatty() else sys.stderr
        screen = Screen(
            sys.stdout,
            notices,
            styled=may_style(notices),
            columns=columns_of(notices),
            quiet=options.quiet,
        )
        return asyncio.run(run_pipe(options, loader, screen, _input(options), sys.stdout))
    finally:
        if not loader.busy:
            loader.close()


def _is_terminal() -> bool:
    # Python has no stdin at all where the descriptor was closed.
    return sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()


def _input(options: ChatOptions) -> int:
    """Return the descriptor of standard input, or of nothing where it is closed or not to be read."""
    if sys.stdin is None or options.prompt not in {None, FROM_INPUT}:
        return os.open(os.devnull, os.O_RDONLY)
    return sys.stdin.fileno()
