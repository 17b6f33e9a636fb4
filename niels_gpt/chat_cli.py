"""Entry point of `niels-chat`, also `python -m niels_gpt.chat_cli`.

Imports nothing heavy, so that the prompt appears at once.
"""

from __future__ import annotations

import os
import sys
import threading

from niels_gpt.cli.exit_codes import run_to_status
from niels_gpt.cli.options import parse_options
from niels_gpt.cli.subcommands import check_first_word, is_subcommand, run_subcommand
from niels_gpt.program import own_process


def run_chat_cli(argv: list[str]) -> int:
    """Run the chat, or the subcommand that the first argument names, and return its exit status.

    `argv` is without the program's name.
    """

    def work() -> int:
        if is_subcommand(argv):
            return run_subcommand(argv)
        check_first_word(argv)
        options = parse_options(["--help"] if argv == ["help"] else argv)
        # After the flags are known to be good: --help must not wait for it.
        from niels_gpt.chat import app  # noqa: PLC0415

        return app.run(options)

    return run_to_status("niels-chat", work)


def main() -> None:
    """Run the chat with the arguments of the process and end the process."""
    own_process()
    status = run_chat_cli(sys.argv[1:])
    if any(thread.name.startswith("loader") for thread in threading.enumerate()):
        # An import of torch cannot be interrupted; a user who leaves at once need not wait for its end.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    main()
