"""`niels-chat export NAME...`: write sessions to a file, or to standard output.

A file appears whole or not at all, readable by its owner alone.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

from niels_gpt.atomic_io import atomic_write
from niels_gpt.cli.exit_codes import OK
from niels_gpt.cli.subcommands import helpers
from niels_gpt.conversation.errors import SessionTrouble
from niels_gpt.paths import user_path
from niels_gpt.terminal.table import counted
from niels_gpt.text.control_characters import harmless

if TYPE_CHECKING:
    from sessions import SessionArchive, Store

_FORMATS = ("jsonl", "openai", "sharegpt", "markdown", "html")
_BY_SUFFIX = {
    **dict.fromkeys(("", ".jsonl", ".json", ".ndjson"), "jsonl"),
    **dict.fromkeys((".md", ".markdown"), "markdown"),
    **dict.fromkeys((".html", ".htm"), "html"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("names", metavar="NAME", nargs="*", help="sessions")
    helpers.add_latest(parser)
    parser.add_argument("--all", action="store_true", help="every session, archived ones too")
    parser.add_argument(
        "--format",
        choices=_FORMATS,
        help="what to write (default: what the file's name says, or jsonl, which loses nothing)",
    )
    parser.add_argument(
        "--output", "-o", metavar="FILE", default="-", help="where to (default: -, standard output)"
    )
    parser.add_argument("--force", action="store_true", help="overwrite FILE if it exists")
    helpers.add_store(parser)


def run(flags: argparse.Namespace) -> int:
    """Write the sessions."""
    if [bool(flags.names), flags.all, flags.latest].count(True) != 1:
        raise SessionTrouble("give the names of sessions, -c for the one used last, or --all")
    with helpers.opened_store(flags) as store:
        # All names are looked up before anything is written.
        named = [store.session(name) for name in flags.names]
        named += [helpers.latest_session(store)] if flags.latest else []
        chosen = store.sessions(archived=True) if flags.all else named
        archives = _Stored(store, [each.id for each in chosen])
        if flags.output == "-":
            _to_standard_output(archives, flags.format or "jsonl")
            return OK
        path = user_path(flags.output)
        format_name = write_file(
            archives,
            path,
            format_name=flags.format,
            force=flags.force,
            or_force=" or use --force",
            or_format=", or --format",
        )
    helpers.remark(f"wrote {counted(len(archives), 'session')} to {path} ({format_name})")
    return OK


class _Stored(Sequence["SessionArchive"]):
    """Sessions that are read when they are written: never more than one is in memory."""

    def __init__(self, store: Store, ids: Sequence[int]) -> None:
        self._store = store
        self._ids = ids

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, at: int) -> SessionArchive: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[SessionArchive]: ...
    def __getitem__(self, at: int | slice) -> SessionArchive | Sequence[SessionArchive]:
        if isinstance(at, slice):
            return _Stored(self._store, self._ids[at])
        return self._store.export_session(self._ids[at])


def _to_standard_output(archives: Sequence[SessionArchive], format_name: str) -> None:
    from sessions.formats import write_sessions  # noqa: PLC0415 - heavy, as the store is

    if sys.stdout.isatty():
        write_sessions(archives, _Shown(), format_name=format_name)
    else:
        write_sessions(archives, sys.stdout, format_name=format_name)


class _Shown:
    """A terminal on which control characters are shown as text."""

    def write(self, text: str) -> None:
        """Show a text."""
        sys.stdout.write(harmless(text))


def write_file(
    archives: Sequence[SessionArchive],
    path: Path,
    *,
    format_name: str | None = None,
    force: bool = False,
    or_force: str = "",
    or_format: str = "",
) -> str:
    """Write sessions to a file, whole or not at all, and return the name of the format.

    Args:
        archives: The sessions.
        path: The file.
        format_name: The format; None for the one of the file's ending.
        force: Whether an existing file may be replaced.
        or_force: What an error about an existing file advises besides a different name.
        or_format: The same for an unknown ending.

    Raises:
        SessionTrouble: The file exists, cannot be written, or has an ending of no format.

    """
    from sessions.formats import write_sessions  # noqa: PLC0415 - heavy, as the store is

    if format_name is None:
        format_name = _BY_SUFFIX.get(path.suffix.lower())
        if format_name is None:
            raise SessionTrouble(
                f"{str(path)!r}: unknown ending {path.suffix!r}; expected .jsonl, .md or .html{or_format}"
            )
    try:
        with atomic_write(path, overwrite=force, mode=0o600) as file:
            text = io.TextIOWrapper(file, encoding="utf-8", newline="\n")
            write_sessions(archives, text, format_name=format_name)
            text.detach()
    except FileExistsError as error:
        raise SessionTrouble(f"{str(path)!r} already exists; choose another name{or_force}") from error
    except OSError as error:
        raise SessionTrouble(f"{str(path)!r} cannot be written: {error.strerror}") from error
    return format_name
