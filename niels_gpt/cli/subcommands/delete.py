"""`niels-chat delete NAME`: archive sessions, which loses nothing; with --purge delete archived ones."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from niels_gpt.cli.exit_codes import FAILED, OK
from niels_gpt.cli.prompt_history import count_entries, history_path, remove_entries
from niels_gpt.cli.subcommands import helpers
from niels_gpt.conversation.errors import SessionTrouble
from niels_gpt.terminal.table import counted, local_time
from niels_gpt.text.system_prompt import DEFAULT_SYSTEM_PROMPT

if TYPE_CHECKING:
    from sessions import Message, Session, Store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("names", metavar="NAME", nargs="+", help="sessions to archive")
    helpers.add_store(parser)
    parser.add_argument("--purge", action="store_true", help="delete archived sessions permanently")
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
            helpers.remark(f"  niels-chat restore {word}  puts it back into the list")
            helpers.remark(f"  niels-chat delete --purge {word}  deletes it permanently")
    return OK


def _purge(store: Store, found: list[Session], *, sure: bool) -> int:
    for session in found:
        if not session.archived:
            raise SessionTrouble(
                f"{session.name!r} is not archived, and only archived sessions can be deleted permanently: "
                f"run niels-chat delete {shlex.quote(session.name)} first"
            )
    typed: set[str] = set()
    for session in found:
        messages = _messages(store, session)
        typed |= {each.content.strip() for each in messages if each.role != "assistant"}
        if not sure:
            said = f"{counted(len(messages), 'message')}, last used {local_time(session.last_used)}"
            helpers.remark(f"{session.name!r}: {said}")
    if not sure and not helpers.confirmed("Delete permanently?"):
        helpers.remark("nothing was deleted")
        return FAILED
    for session in found:
        store.purge(session.id)
        helpers.remark(f"deleted {session.name!r} permanently")
    _offer_to_forget(typed - {"", DEFAULT_SYSTEM_PROMPT.strip()}, sure=sure)
    return OK


def _messages(store: Store, session: Session) -> Sequence[Message]:
    """Return the messages of a session; none of a damaged one, which can be deleted all the same."""
    from sessions import StoreDamaged  # noqa: PLC0415 - heavy, as the store is

    try:
        return store.export_session(session.id).messages
    except StoreDamaged:
        return ()


def _offer_to_forget(typed: set[str], *, sure: bool) -> None:
    """Remove what was typed from the prompt history, after a confirmation unless `sure`."""
    path = history_path()
    count = count_entries(path, typed)
    if not count:
        return
    lines = counted(count, "line")
    if not sure and not helpers.confirmed(f"The prompt history has {lines} of it. Remove them too?"):
        helpers.remark(f"{lines} of it stay in the prompt history, {path}")
        return
    try:
        remove_entries(path, typed)
    except OSError as error:
        raise SessionTrouble(f"{str(path)!r} cannot be written: {error.strerror}") from error
    helpers.remark(f"removed {lines} of it from the prompt history")
