"""`niels-chat doctor`: is the store whole, and if it is not, what to do; with --recover, do it.

Without --recover nothing is changed.
"""

from __future__ import annotations

import argparse
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from niels_gpt.cli.exit_codes import FAILED, OK
from niels_gpt.cli.subcommands import helpers
from niels_gpt.conversation.errors import LoadFailed, SessionTrouble
from niels_gpt.terminal.table import counted, one_line, width_of_output, wrapped

_SHOWN = 20  # faults in full; more of them say nothing more
_RECOVER = (
    "niels-chat doctor --recover makes a new store of what can be read and keeps this file beside it; "
    "a copy made by niels-chat backup may hold more (--store COPY)"
)


@dataclass(kw_only=True)
class Findings:
    """What was found; `damaged` where a recovery can help, `notes` are nothing wrong."""

    store: str
    sessions: int = 0
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    damaged: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    helpers.add_store(parser)
    helpers.add_json(parser)
    parser.add_argument("--recover", action="store_true", help="make a new store of what can still be read")
    parser.add_argument("--yes", action="store_true", help="with --recover: do not ask")


def run(flags: argparse.Namespace) -> int:
    """Look at everything, print what was found, and return FAILED if something is wrong."""
    place = _place(helpers.store_place(flags))
    found = _examined(flags, place)
    if flags.json:
        helpers.emit_json(found)
    else:
        # A path is for copying, so the terminal may break it, but no line of ours does.
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
            found.sessions = len(store.sessions(archived=True))
            found.faults += store.check()
            found.damaged = bool(found.faults)
    except (LoadFailed, SessionTrouble) as error:
        found.faults.append(str(error))
        found.damaged = isinstance(error.__cause__, StoreDamaged)
    found.faults += _exposed(place)
    return found


def _report(found: Findings) -> Iterator[str]:
    yield from (f"note: {note}" for note in found.notes)
    if not found.faults:
        yield f"sessions: {found.sessions:,}, archived ones included"
        yield "looked at: file structure, references, search index, digests of all messages and replies"
        yield "nothing is wrong"
        return
    yield from (f"wrong: {fault}" for fault in found.faults[:_SHOWN])
    if len(found.faults) > _SHOWN:
        yield f"and {len(found.faults) - _SHOWN:,} more"
    if found.damaged:
        yield f"what to do: {_RECOVER}"


def _recover(place: Path, *, sure: bool) -> int:
    from sessions import StoreError, recover_store  # noqa: PLC0415

    if not sure and not helpers.confirmed("No other program may use the store meanwhile. Recover it?"):
        helpers.remark("nothing was changed")
        return FAILED
    try:
        saved = recover_store(place)
    except (StoreError, OSError) as error:
        raise SessionTrouble(f"nothing was changed: {error}") from error
    helpers.remark(
        f"saved {counted(saved.sessions, 'session')}, {counted(saved.messages, 'message')} and "
        f"{counted(saved.generations, 'reply record')}; left out "
        f"{counted(saved.dropped, 'record')} that did not hold"
    )
    helpers.remark(f"the damaged file is kept as {saved.kept}")
    return OK


def _exposed(place: Path | str) -> list[str]:
    """Return a fault if others can read the store's file."""
    if isinstance(place, str) or not place.is_file():
        return []
    mode = stat.S_IMODE(place.stat().st_mode)
    if not mode & 0o077:
        return []
    return [f"others can read {str(place)!r} (mode {mode:o}): chmod 600 makes it yours alone"]


def _place(store: str | None) -> Path | str:
    """Return the store's path, or its URL without a password."""
    from sessions.place import default_path  # noqa: PLC0415

    if store is None:
        return default_path()
    if "://" not in store:
        return Path(store).expanduser()
    from sqlalchemy import make_url  # noqa: PLC0415
    from sqlalchemy.exc import ArgumentError  # noqa: PLC0415

    try:
        return make_url(store).render_as_string(hide_password=True)
    except ArgumentError:
        return store
