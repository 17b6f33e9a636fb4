"""`niels-chat rename OLD NEW`: rename a session; its messages and its digest stay."""

from __future__ import annotations

import argparse

from niels_gpt.cli.exit_codes import OK
from niels_gpt.cli.subcommands import helpers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("old", metavar="OLD", help="the present name")
    parser.add_argument("new", metavar="NEW", help="the new name")
    helpers.add_store(parser)


def run(flags: argparse.Namespace) -> int:
    """Rename the session."""
    with helpers.opened_store(flags) as store:
        store.rename(store.session(flags.old).id, flags.new)
    helpers.remark(f"{flags.old!r} is now {flags.new!r}")
    return OK
