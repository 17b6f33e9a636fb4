"""`niels-chat config`: show every configurable value, and where it comes from.

Takes the chat's flags, to show what they would change.
"""

from __future__ import annotations

import argparse

from niels_gpt.cli.config import config_file
from niels_gpt.cli.exit_codes import OK
from niels_gpt.cli.options import add_configurable, found
from niels_gpt.cli.personas import persona_names, personas_folder
from niels_gpt.cli.subcommands import helpers
from niels_gpt.conversation.options import DEFAULT_CHECKPOINT
from niels_gpt.conversation.settings import Value, show
from niels_gpt.terminal.table import Column, table, width_of_output

_DEFAULTS = {"ckpt": str(DEFAULT_CHECKPOINT), "store": "", "system": "(built in)", "threads": "auto"}
_COLUMNS = (Column(title="KEY"), Column(title="VALUE"), Column(title="FROM"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    helpers.add_json(parser)
    parser.add_argument("--personas", action="store_true", help="print the names of the personas, one a line")
    add_configurable(parser)


def _shown(key: str, value: Value) -> Value:
    """Return a value without the password that the URL of a store may have."""
    from sessions.place import without_password  # noqa: PLC0415 - only this command needs it

    return without_password(value) if key == "store" and isinstance(value, str) else value


def run(flags: argparse.Namespace) -> int:
    """Print the values."""
    if flags.personas:
        for name in persona_names():
            helpers.emit(name)
        return OK
    everything = found(vars(flags))
    if flags.json:
        for key, each in everything.items():
            helpers.emit_json({"key": key, "value": _shown(key, each.value), "from": each.source})
    else:
        rows = [[key, _text(key, each.value), each.source] for key, each in everything.items()]
        print("\n".join(table(_COLUMNS, rows, width_of_output())))
    path = config_file()
    helpers.remark(f"personas: {', '.join(persona_names()) or 'none'}, in {personas_folder()}")
    helpers.remark(f"configuration file: {path}" + ("" if path.is_file() else " (does not exist)"))
    return OK


def _text(key: str, value: Value) -> str:
    """Return a value for the table; where it is the default, what that stands for."""
    if value is not None or key not in _DEFAULTS:
        return show(_shown(key, value))
    if key == "store":
        from sessions.place import default_path  # noqa: PLC0415 - only this command needs it

        return str(default_path())
    return _DEFAULTS[key]
