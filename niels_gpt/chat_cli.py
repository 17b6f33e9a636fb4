"""`niels-chat`, `python -m niels_gpt.chat_cli`: the door to niels_gpt.chat.

Imports nothing heavy, so that the prompt is there at once.
"""

from __future__ import annotations

import os
import sys
import threading

from niels_gpt.chat import app
from niels_gpt.cli.exit_codes import FAILED, USAGE, report
from niels_gpt.cli.options import parse_options
from niels_gpt.cli.subcommands import UnknownSubcommand, is_subcommand, run_subcommand
from niels_gpt.conversation.errors import ChatError


def run_chat_cli(argv: list[str]) -> int:
    """Run the chat, or the subcommand that the first argument names, and return its exit status.

    `argv` is without the program's name.
    """
    try:
        return run_subcommand(argv) if is_subcommand(argv) else app.run(parse_options(argv))
    except SystemExit as stop:  # --help, or a wrong flag that argparse has reported
        return stop.code if isinstance(stop.code, int) else USAGE
    except UnknownSubcommand as error:
        report("niels-chat", error)
        return USAGE
    except ChatError as error:
        report("niels-chat", error)
        return FAILED


def main() -> None:
    """Run the chat with the arguments of the process and end the process."""
    status = run_chat_cli(sys.argv[1:])
    if any(thread.name.startswith("loader") for thread in threading.enumerate()):
        # An import of torch cannot be interrupted, and who leaves at once need not wait for its end.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    main()
