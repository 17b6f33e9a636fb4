"""`niels-chat doctor`: look for damage in the store and say what to do; with --recover, do it.

Without --recover nothing is changed.
"""

from __future__ import annotations

import argparse
import os
import shlex
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from niels_gpt.cli.exit_codes import FAILED, OK
from niels_gpt.cli.subcommands import helpers
from niels_gpt.conversation.errors import LoadFailed, SessionTrouble
from niels_gpt.paths import user_path
from niels_gpt.terminal.table import counted, one_line, width_of_output, wrapped

_SHOWN = 20  # faults in full; the others are counted
_RECOVER = (
    "niels-chat doctor --recover creates a new store from what can be read and keeps this file next to it; "
    "a copy made by niels-chat backup may hold more (--store COPY)"
)


@dataclass(kw_only=True)
class Findings:
    """What was found; `damaged` where a recovery can help, `notes` for what is not a fault."""

    store: str
    sessions: int = 0
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    damaged: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    helpers.add_store(parser)
    helpers.add_json(parser)
    parser.add_argument(
        "--recover", action="store_true", help="create a new store from what can still be read"
    )
    parser.add_argument("--yes", action="store_true", help="with --recover: do not ask")


def run(flags: argparse.Namespace) -> int:
    """Examine everything, print what was found, and return FAILED if something is wrong."""
    place = _place(helpers.store_place(flags))
    found = _examined(flags, place)
    if flags.json:
        helpers.emit_json(found)
    else:
        # A path is there to be copied: the terminal may break it, but no line break is printed in it.
        helpers.emit(f"store: {found.store}")
        for line in _report(found):
            print("\n".join(wrapped(one_line(line), width_of_output())))
    if found.damaged and flags.recover and isinstance(place, Path):
        return _recover(place, sure=flags.yes)
    return FAILED if found.faults else OK


def _examined(flags: argparse.Namespace, place: Path | str) -> Findings:
    from sessions import StoreDamaged  # noqa: PLC0415 - heavy, as the store is

    found = Findings(store=str(place))
    try:
        with helpers.opened_store(flags) as store:
            if store.caution is not None:
                found.notes.append(store.caution)
            health = store.examine()
            found.sessions = health.sessions
            found.faults += health.faults
            found.damaged = bool(found.faults)
            if health.without_checksum:
                found.notes.append(
                    f"{counted(health.without_checksum, 'row')} of an earlier version have no checksum, so "
                    "changes of their names, times and settings cannot be found"
                )
    except (LoadFailed, SessionTrouble) as error:
        found.faults.append(str(error))
        found.damaged = isinstance(error.__cause__, StoreDamaged)
    found.faults += _exposed(place)
    return found


def _report(found: Findings) -> Iterator[str]:
    yield from (f"note: {note}" for note in found.notes)
    if not found.faults:
        yield f"sessions: {found.sessions:,}, archived ones included"
        yield (
            "checked: file structure, references, search indexes, digests of all messages and replies, "
            "checksums of all rows"
        )
        yield "no problems found"
        return
    yield from (f"wrong: {fault}" for fault in found.faults[:_SHOWN])
    if len(found.faults) > _SHOWN:
        yield f"and {len(found.faults) - _SHOWN:,} more"
    if found.damaged:
        yield f"what to do: {_RECOVER}"


def _recover(place: Path, *, sure: bool) -> int:
    from sessions import StoreError, recover_store  # noqa: PLC0415

    if not sure and not helpers.confirmed(
        "No other program may use the store during the recovery. Start it?"
    ):
        helpers.remark("nothing was changed")
        return FAILED
    try:
        saved = recover_store(place)
    except (StoreError, OSError) as error:
        raise SessionTrouble(f"nothing was changed: {error}") from error
    helpers.remark(
        f"saved {counted(saved.sessions, 'session')}, {counted(saved.messages, 'message')} and "
        f"{counted(saved.generations, 'reply record')}; left out "
        f"{counted(saved.dropped, 'record')} that were inconsistent"
    )
    helpers.remark(f"the damaged file is kept as {saved.kept}")
    return OK


def _exposed(place: Path | str) -> list[str]:
    """Return a fault if other users can read the store's file."""
    if isinstance(place, str) or not place.is_file() or os.name == "nt":
        return []
    mode = stat.S_IMODE(place.stat().st_mode)
    if not mode & 0o077:
        return []
    return [f"the store is readable by other users (mode {mode:o}): run chmod 600 {shlex.quote(str(place))}"]


def _place(store: str | None) -> Path | str:
    """Return the path of the store, or its URL without a password."""
    from sessions.place import default_path, is_url, path_of_url, without_password  # noqa: PLC0415

    if store is None:
        return default_path()
    if not is_url(store):
        return user_path(store)
    return path_of_url(store) or without_password(store)
