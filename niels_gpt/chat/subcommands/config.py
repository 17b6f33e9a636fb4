"""`niels-chat config`: every value that can be configured, and where it comes from.

Takes the chat's flags, to show what they would change. Knows no store and no model.
"""

from __future__ import annotations

import argparse

from niels_gpt.chat.config import config_file
from niels_gpt.chat.options import add_configurable, found
from niels_gpt.chat.settings import show
from niels_gpt.chat.status import OK
from niels_gpt.chat.subcommands import common
from niels_gpt.chat.subcommands.table import Column, table, width_of_output

_COLUMNS = (Column(title="KEY"), Column(title="VALUE"), Column(title="FROM"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    common.add_json(parser)
    add_configurable(parser)


def run(flags: argparse.Namespace) -> int:
    """Print the values."""
    everything = found(vars(flags))
    if flags.json:
        for key, each in everything.items():
            common.emit_json({"key": key, "value": each.value, "from": each.source})
    else:
        rows = [[key, show(each.value), each.source] for key, each in everything.items()]
        print("\n".join(table(_COLUMNS, rows, width_of_output())))
    path = config_file()
    common.remark(f"the file is {path}" + ("" if path.is_file() else " (not there)"))
    return OK
