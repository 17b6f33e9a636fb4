"""`niels-chat doctor`: is the store whole, and if it is not, what to do. Changes nothing."""

from __future__ import annotations

import argparse
import stat
from collections.abc import Iterator
from pathlib import Path

from niels_gpt.chat.errors import LoadFailed
from niels_gpt.chat.status import FAILED, OK
from niels_gpt.chat.subcommands import common
from niels_gpt.chat.subcommands.table import one_line, width_of_output, wrapped

_SHOWN = 20  # faults in full; more of them say nothing more


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    common.add_store(parser)
    common.add_json(parser)


def run(flags: argparse.Namespace) -> int:
    """Look at everything, print what was found, and return FAILED if something is wrong."""
    place = _place(common.store_place(flags))
    faults: list[str] = []
    sessions = 0
    try:
        with common.opened_store(flags) as store:
            sessions = len(store.sessions(archived=True))
            faults += store.check()
    except LoadFailed as error:
        faults.append(str(error))
    faults += _exposed(place)
    if flags.json:
        common.emit_json({"store": str(place), "sessions": sessions, "faults": faults})
    else:
        for line in _report(str(place), sessions, faults):
            print("\n".join(wrapped(one_line(line), width_of_output())))
    return FAILED if faults else OK


def _report(place: str, sessions: int, faults: list[str]) -> Iterator[str]:
    yield f"store: {place}"
    if not faults:
        yield f"sessions: {sessions:,}, archived ones included"
        yield "looked at: file structure, references, search index, digests of all messages and replies"
        yield "nothing is wrong"
        return
    for fault in faults[:_SHOWN]:
        yield f"wrong: {fault}"
    if len(faults) > _SHOWN:
        yield f"and {len(faults) - _SHOWN:,} more"
    yield (
        "what to do: keep a copy of the file as it is; if niels-chat backup has made a copy earlier, go on "
        "with that (--store COPY); niels-chat export --all saves what can still be read"
    )


def _exposed(place: Path | str) -> list[str]:
    """Return a fault if others can read the store's file."""
    if isinstance(place, str) or not place.is_file():
        return []
    mode = stat.S_IMODE(place.stat().st_mode)
    if not mode & 0o077:
        return []
    return [f"others can read {str(place)!r} (mode {mode:o}): chmod 600 makes it yours alone"]


def _place(store: str | None) -> Path | str:
    from sessions.sqlite_file import default_path  # noqa: PLC0415 - heavy, as the store is

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
