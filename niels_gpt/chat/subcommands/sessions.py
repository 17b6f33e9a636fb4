"""`niels-chat sessions`: the list of sessions, last used first. Knows no single message."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from niels_gpt.chat.status import OK
from niels_gpt.chat.subcommands import common
from niels_gpt.chat.subcommands.table import Column, table, width_of_output

if TYPE_CHECKING:
    from sessions import SessionSummary

_COLUMNS = (
    Column(title="NAME"),
    Column(title="LAST USED"),
    Column(title="TURNS", right=True),
    Column(title="FIRST WORDS"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    common.add_store(parser)
    common.add_json(parser)
    parser.add_argument("--archived", action="store_true", help="archived ones too")


def run(flags: argparse.Namespace) -> int:
    """Print the list."""
    with common.opened_store(flags) as store:
        found = store.sessions(archived=flags.archived)
    if flags.json:
        for each in found:
            common.emit_json(each)
    elif found:
        print("\n".join(table(_COLUMNS, [_row(each) for each in found], width_of_output())))
    else:
        common.remark("there are no sessions yet: niels-chat begins one")
    return OK


def _row(each: SessionSummary) -> list[str]:
    turns = f"{each.turns:,}" + (" (archived)" if each.archived else "")
    return [each.name, common.local_time(each.last_used), turns, each.first_words]
