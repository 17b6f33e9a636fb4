"""Entry point of `niels-generate`, also `python -m niels_gpt.generate_cli`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from niels_gpt.chat_cli import run_chat_cli
from niels_gpt.cli.generate.command import run
from niels_gpt.program import own_process


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status; `argv` None takes the arguments of the process."""
    if argv is None:
        own_process()
    return run(sys.argv[1:] if argv is None else argv, chat=run_chat_cli)


if __name__ == "__main__":
    sys.exit(main())
