"""`niels-chat delete NAME`: out of the list first, which loses nothing; for ever only when asked twice."""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING

from niels_gpt.cli.exit_codes import FAILED, OK
from niels_gpt.cli.subcommands import helpers
from niels_gpt.conversation.errors import SessionTrouble
from niels_gpt.terminal.table import counted, local_time

if TYPE_CHECKING:
    from sessions import Session, Store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("names", metavar="NAME", nargs="+", help="sessions to archive")
    helpers.add_store(parser)
    parser.add_argument("--purge", action="store_true", help="delete archived sessions for ever")
    parser.add_argument("--yes", action="store_true", help="with --purge: do not ask")


def run(flags: argparse.Namespace) -> int:
    """Archive the sessions, or purge archived ones."""
    with helpers.opened_store(flags) as store:
        # All names are looked up before the first session changes.
        found = [store.session(name) for name in flags.names]
        if flags.purge:
            return _purge(store, found, sure=flags.yes)
        for session in found:
            store.archive(session.id)
            word = shlex.quote(session.name)
            helpers.remark(f"archived {session.name!r}")
            helpers.remark(f"  niels-chat restore {word}  brings it back")
            helpers.remark(f"  niels-chat delete --purge {word}  deletes it for ever")
    return OK


def _purge(store: Store, found: list[Session], *, sure: bool) -> int:
    for session in found:
        if not session.archived:
            raise SessionTrouble(
                f"{session.name!r} is not archived, and only archived sessions are deleted for ever: "
                f"niels-chat delete {shlex.quote(session.name)} archives it"
            )
    if not sure:
        for session in found:
            messages = counted(len(store.export_session(session.id).messages), "message")
            helpers.remark(f"{session.name!r}: {messages}, last used {local_time(session.last_used)}")
        if not helpers.confirmed("Delete for ever?"):
            helpers.remark("nothing was deleted")
            return FAILED
    for session in found:
        store.purge(session.id)
        helpers.remark(f"deleted {session.name!r} for ever")
    return OK
