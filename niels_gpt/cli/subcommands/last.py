"""`niels-chat last`: print the last reply of a session, or its first code block, and nothing around it."""

from __future__ import annotations

import argparse
import sys

from niels_gpt.cli.exit_codes import OK
from niels_gpt.cli.subcommands import helpers
from niels_gpt.conversation.errors import SessionTrouble
from niels_gpt.terminal.markdown import first_code_block


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="the session (default: the one used last)")
    helpers.add_store(parser)
    parser.add_argument("-x", "--extract", action="store_true", help="only the first code block")
    parser.add_argument("--copy", action="store_true", help="put it on the clipboard too")


def run(flags: argparse.Namespace) -> int:
    """Print the reply."""
    with helpers.opened_store(flags) as store:
        session = helpers.chosen_session(flags, store)
        replies = [each.content for each in store.path(session.id) if each.role == "assistant"]
    if not replies:
        raise SessionTrouble(f"{session.name!r} has no reply yet")
    text = first_code_block(replies[-1]) if flags.extract else replies[-1]
    if text is None:
        raise SessionTrouble(f"the last reply of {session.name!r} has no code block")
    if sys.stdout.isatty():
        helpers.emit(text.rstrip("\n"))
    else:  # a file gets the text as it is
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
    if flags.copy:
        from niels_gpt.terminal.clipboard import copy_text  # noqa: PLC0415 - asked for by few

        helpers.remark(f"copied {copy_text(text, sys.stdout)}")
    return OK
