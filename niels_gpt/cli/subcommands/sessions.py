"""`niels-chat sessions`: list the sessions, last used first."""

from __future__ import annotations

import argparse
from contextlib import suppress
from pathlib import PurePath
from typing import TYPE_CHECKING

from niels_gpt.cli.exit_codes import OK
from niels_gpt.cli.subcommands import helpers
from niels_gpt.cli.subcommands.names import names
from niels_gpt.conversation.errors import ChatError
from niels_gpt.terminal.table import Column, local_time, table, width_of_output

if TYPE_CHECKING:
    from sessions import SessionSummary

_COLUMNS = (
    Column(title="NAME"),
    Column(title="LAST USED"),
    Column(title="TURNS", right=True, noun="turn"),
    Column(title="CHECKPOINT"),
    Column(title="FIRST WORDS"),
)
_PAGE = 50


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    helpers.add_store(parser)
    helpers.add_json(parser)
    helpers.add_page(parser, "sessions", limit=None)
    parser.add_argument("--archived", action="store_true", help="list archived sessions too")
    parser.add_argument(
        "--names",
        metavar="PREFIX",
        nargs="?",
        const="",
        help="print only the names that begin with PREFIX, one a line, for completion in a shell",
    )


def run(flags: argparse.Namespace) -> int:
    """Print the list."""
    if flags.names is not None:
        _complete(flags)
        return OK
    limit = _PAGE if flags.limit is None and not flags.json else flags.limit
    with helpers.opened_store(flags) as store:
        # One more than is shown, to know whether there are more.
        more = None if limit is None else limit + 1
        found = store.sessions(archived=flags.archived, limit=more, offset=flags.offset)
    shown = found[:limit]
    if flags.json:
        for each in shown:
            helpers.emit_json(each)
    elif shown:
        helpers.print_page(table(_COLUMNS, [_row(each) for each in shown], width_of_output()))
    elif not found:
        helpers.remark("there are no sessions here" if flags.offset else "there are no sessions yet")
    if len(found) > len(shown):
        helpers.remark(f"more sessions: rerun with --offset {flags.offset + len(shown)}")
    return OK


def _complete(flags: argparse.Namespace) -> None:
    """Print names; none where the configuration is wrong."""
    with suppress(ChatError):
        for name in names(flags.names, store=helpers.store_place(flags), limit=flags.limit or _PAGE):
            helpers.emit(name)


def _row(each: SessionSummary) -> list[str]:
    turns = f"{each.turns:,}"
    checkpoint = PurePath(each.checkpoint).name if each.checkpoint else "-"
    words = f"(archived) {each.first_words}" if each.archived else each.first_words
    return [each.name, local_time(each.last_used), turns, checkpoint, words]
