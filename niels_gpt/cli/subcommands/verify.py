"""`niels-chat verify NAME`: print the fingerprint of a session, and every stored value that was changed.

Needs no checkpoint and no torch: digests and checksums are recomputed from the stored values.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict

from niels_gpt.cli.exit_codes import DIVERGED, OK
from niels_gpt.cli.subcommands import helpers
from niels_gpt.terminal.table import counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    helpers.add_name(parser)
    helpers.add_store(parser)
    helpers.add_json(parser)


def run(flags: argparse.Namespace) -> int:
    """Print the digest of the session's path, and the faults of its whole tree."""
    with helpers.opened_store(flags) as store:
        session = helpers.chosen_session(flags, store)
        found = store.verify(session.id)
    if flags.json:
        helpers.emit_json({"session": session.name, **asdict(found)})
    else:
        helpers.emit(found.digest)
    for fault in found.faults:
        helpers.remark(f"{fault.where} does not verify: expected {fault.expected}, found {fault.got}")
    messages, replies = (
        counted(found.messages, "message"),
        counted(found.generations, "reply", "replies"),
    )
    if found.faults:
        helpers.remark(f"{counted(len(found.faults), 'fault')} in {messages} and {replies}")
    else:
        helpers.remark(f"ok: {messages} and {replies} are unchanged")
    return DIVERGED if found.faults else OK
