"""`niels-chat backup [PATH]`: copy the store, also while chats are using it."""

from __future__ import annotations

import argparse
from datetime import datetime
from pathlib import Path

from niels_gpt.cli.exit_codes import OK
from niels_gpt.cli.subcommands import helpers
from niels_gpt.conversation.errors import SessionTrouble
from niels_gpt.paths import user_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "path",
        metavar="PATH",
        type=Path,
        nargs="?",
        help="the new file (default: one named by the date, in the folder backups next to the store)",
    )
    helpers.add_store(parser)


def run(flags: argparse.Namespace) -> int:
    """Copy the store and print the path of the copy."""
    with helpers.opened_store(flags) as store:
        path = user_path(flags.path) if flags.path is not None else _dated(helpers.store_place(flags))
        store.backup(path)
    helpers.emit(str(path))
    return OK


def _dated(place: str | None) -> Path:
    from sessions.place import default_path  # noqa: PLC0415 - heavy, as the store is

    if place is not None and "://" in place:
        raise SessionTrouble("the store is given as a URL: give the path of the copy, niels-chat backup PATH")
    store = default_path() if place is None else user_path(place)
    folder = store.parent / "backups"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise SessionTrouble(f"{str(folder)!r} cannot be created: {error.strerror}") from error
    return folder / f"{store.stem}-{datetime.now().astimezone():%Y-%m-%d-%H%M%S}{store.suffix}"
