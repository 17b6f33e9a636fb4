"""The composition root: options in, a chat on the terminal or on a pipe, an exit status out.

Statuses: 0; 1 when something could not be done; 2 for a wrong flag (argparse); 130 after an interrupt;
141 when the reader of the replies went away. Knows what the parts are, and nothing of how they work.
"""

from __future__ import annotations

import asyncio
import io
import os
import sys
from collections.abc import Callable

from niels_gpt.chat.errors import ChatError
from niels_gpt.chat.loader import Loader
from niels_gpt.chat.options import Options, check_checkpoint, check_session_name
from niels_gpt.chat.render import Screen, may_style

INTERRUPTED, BROKEN_PIPE = 130, 141


def run(options: Options, *, make_loader: Callable[[Options], Loader] = Loader) -> int:
    """Chat as the options say and return the exit status. Errors are one line on standard error."""
    try:
        check_session_name(options)
        check_checkpoint(options)
        return _chat(options, make_loader(options))
    except ChatError as error:
        report(error)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # What is still buffered has no reader: let the interpreter's last flush go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE


def report(error: ChatError) -> None:
    """Print an error as one harmless line on standard error."""
    Screen(sys.stderr, sys.stderr, styled=False).error(f"niels-chat: {error}")


def _chat(options: Options, loader: Loader) -> int:
    for stream in (sys.stdout, sys.stderr):
        # A locale without UTF-8 shows a question mark; it must not end the chat.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        if sys.stdin.isatty() and sys.stdout.isatty():
            # Here, not above: a pipe and --help are quicker without prompt-toolkit.
            from niels_gpt.chat.repl import run_on_terminal  # noqa: PLC0415

            screen = Screen(sys.stdout, sys.stdout, styled=may_style(sys.stdout))
            run_on_terminal(options, loader, screen)
            return 0
        from niels_gpt.chat.pipe import run_pipe  # noqa: PLC0415

        screen = Screen(sys.stdout, sys.stderr, styled=may_style(sys.stderr))
        return 0 if asyncio.run(run_pipe(options, loader, screen, sys.stdin.fileno())) else 1
    finally:
        if not loader.busy:
            loader.close()
