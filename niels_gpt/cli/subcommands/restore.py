"""`niels-chat restore NAME`: put archived sessions back into the list; undoes `delete`."""

from __future__ import annotations

import argparse

from niels_gpt.cli.exit_codes import OK
from niels_gpt.cli.subcommands import helpers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("names", metavar="NAME", nargs="+", help="archived sessions")
    helpers.add_store(parser)


def run(flags: argparse.Namespace) -> int:
    """Restore the sessions."""
    with helpers.opened_store(flags) as store:
        found = [store.session(name) for name in flags.names]
        for session in found:
            if session.archived:
                store.archive(session.id, archived=False)
                helpers.remark(f"{session.name!r} is in the list again")
            else:
                helpers.remark(f"{session.name!r} is not archived; nothing was changed")
    return OK
