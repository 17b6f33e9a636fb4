"""Helpers of the subcommands: the store that `--store` names, JSON lines, and text that is safe to print.

Imports the store only when it is opened, so that a wrong flag or `--help` costs nothing.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from niels_gpt.cli.config import configured
from niels_gpt.conversation.errors import LoadFailed, SessionTrouble
from niels_gpt.paths import user_path
from niels_gpt.program import as_started
from niels_gpt.text.control_characters import harmless

if TYPE_CHECKING:
    from sessions import Session, Store


def add_store(parser: argparse.ArgumentParser) -> None:
    """Add `--store`, as the chat has it."""
    parser.add_argument(
        "--store", metavar="PATH_OR_URL", help="where sessions are kept (default: your data folder)"
    )


def add_name(parser: argparse.ArgumentParser) -> None:
    """Add the name of a session, and the flag for the one used last."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("name", metavar="NAME", nargs="?", help="the session")
    add_latest(which)


def add_latest(parser: argparse._ActionsContainer) -> None:
    """Add `-c`, as the chat has it."""
    parser.add_argument("-c", "--continue", dest="latest", action="store_true", help="the session used last")


def chosen_session(flags: argparse.Namespace, store: Store) -> Session:
    """Return the session that NAME or `-c` stands for. Raises StoreError, SessionTrouble."""
    return store.session(flags.name) if flags.name is not None else latest_session(store)


def latest_session(store: Store) -> Session:
    """Return the session used last. Raises SessionTrouble where there is none."""
    found = store.last_used()
    if found is None:
        raise SessionTrouble("there are no sessions yet")
    return found


def add_page(parser: argparse.ArgumentParser, what: str, *, limit: int | None) -> None:
    """Add `--limit` and `--offset` for a list of `what`; a `limit` of None means unlimited."""
    default = "all" if limit is None else limit
    parser.add_argument(
        "--limit", metavar="N", type=_count, default=limit, help=f"at most N {what} (default: {default})"
    )
    parser.add_argument("--offset", metavar="N", type=_count, default=0, help=f"leave out the first N {what}")


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add `--json`."""
    parser.add_argument("--json", action="store_true", help="one JSON object a line, for programs")


def store_place(flags: argparse.Namespace) -> str | None:
    """Return the path or URL of the store, from `--store` or what is configured; None is the user's own.

    Raises WrongConfig.
    """
    if flags.store is not None:
        return flags.store
    found = configured().get("store")
    return None if found is None or found.value is None else str(found.value)


@contextmanager
def opened_store(flags: argparse.Namespace, *, make: bool = False) -> Iterator[Store]:
    """Yield the store that `--store` names; its errors become ChatErrors.

    A store that was named and is not there is only created for `make`, and its folder never: a mistyped name
    must not look like an empty store.
    """
    # Heavy, and --help must not wait for it.
    from sessions import StoreError, open_store  # noqa: PLC0415
    from sessions.place import is_url  # noqa: PLC0415

    place = store_place(flags)
    try:
        if place is None:
            store = open_store()
        else:
            named = place if is_url(place) else user_path(place)
            store = open_store(named, missing="create file" if make else "refuse")
    except StoreError as error:
        raise LoadFailed(str(error)) from error
    with store:
        try:
            yield store
        except StoreError as error:
            raise SessionTrouble(str(error)) from error


def json_line(value: object) -> str:
    """Return a record, mapping or list as one line of JSON; moments become ISO 8601 in UTC.

    Text stands as it is, but for characters that would steer a terminal: those are escaped.
    """
    from sessions.formats.json_lines import json_line  # noqa: PLC0415 - heavy, as the store is

    return json_line(value)


def emit(text: str) -> None:
    """Print lines on standard output, with control characters made visible."""
    sys.stdout.write(harmless(text) + "\n")


def print_page(lines: Sequence[str]) -> None:
    """Print lines that are safe to print; on a terminal that they do not fit on, in $PAGER or less."""
    text = "\n".join(lines) + "\n"
    pager = _pager() if sys.stdout.isatty() and len(lines) >= shutil.get_terminal_size().lines else None
    if pager is None:
        sys.stdout.write(text)
        return
    sys.stdout.flush()
    # Colours pass, and what is on the screen stays there.
    environ = {**os.environ, "LESS": os.environ.get("LESS", "FRX")}
    subprocess.run(pager, input=text.encode(errors="replace"), check=False, env=environ)  # noqa: S603 - the user's


def _pager() -> list[str] | None:
    words = shlex.split(os.environ.get("PAGER", "less"))
    return words if words and words != ["cat"] and shutil.which(words[0]) is not None else None


def emit_json(value: object) -> None:
    """Print one value as a JSON line."""
    sys.stdout.write(json_line(value) + "\n")


def remark(text: str) -> None:
    """Print a line that is not part of the result, on standard error."""
    sys.stderr.write(harmless(as_started(text)) + "\n")


def confirmed(question: str) -> bool:
    """Ask on the terminal and return whether the answer is yes. Raises SessionTrouble without a terminal."""
    if not sys.stdin.isatty():
        raise SessionTrouble("refusing to go ahead without confirmation; pass --yes")
    sys.stderr.write(f"{harmless(question)} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 up")
    return int(text)
