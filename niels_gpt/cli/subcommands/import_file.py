"""`niels-chat import FILE`: the sessions of a file, all of them or none.

A name that is taken gets a number.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from niels_gpt.cli.exit_codes import OK
from niels_gpt.cli.subcommands import helpers
from niels_gpt.conversation.errors import SessionTrouble
from niels_gpt.paths import user_path
from niels_gpt.terminal.table import counted

if TYPE_CHECKING:
    from sessions import SessionArchive, Store

_CHUNK = 1 << 20
_FORMATS = ("auto", "jsonl", "openai", "sharegpt", "chatgpt", "llm")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("file", metavar="FILE", help="what to read; - for standard input")
    parser.add_argument(
        "--format", choices=_FORMATS, default="auto", help="what it is (default: auto, which looks at it)"
    )
    parser.add_argument("--name", metavar="NAME", help="how to call the session of a file that has one")
    helpers.add_store(parser)


def run(flags: argparse.Namespace) -> int:
    """Import the file and print the names of the new sessions."""
    with helpers.opened_store(flags, make=True) as store, _file(flags.file) as path:
        from sessions.formats import Source, read_sessions  # noqa: PLC0415 - heavy, as the store is

        source = Source(path, name="standard input" if flags.file == "-" else path.name)
        archives = list(read_sessions(source, format_name=flags.format))
        names = _names(store, archives, flags.name)
        imported = store.import_sessions(archives, names=names)
    for session, archive in zip(imported, archives, strict=True):
        helpers.emit(session.name)
        if flags.name is None and session.name != archive.session.name:
            helpers.remark(f"{archive.session.name!r} was taken: imported as {session.name!r}")
    messages = sum(len(archive.messages) for archive in archives)
    helpers.remark(f"imported {counted(len(imported), 'session')} with {counted(messages, 'message')}")
    return OK


def _names(store: Store, archives: Sequence[SessionArchive], name: str | None) -> list[str]:
    """Return a name for each session that no other one has."""
    if name is not None:
        if len(archives) != 1:
            sessions = counted(len(archives), "session")
            raise SessionTrouble(f"--name {name!r} is for a file with one session, and this has {sessions}")
        return [name]
    taken = {each.name for each in store.sessions(archived=True)}
    found: list[str] = []
    for archive in archives:
        wanted = archive.session.name
        numbered = (wanted if number == 1 else f"{wanted}-{number}" for number in count(1))
        found.append(next(each for each in numbered if each not in taken))
        taken.add(found[-1])
    return found


@contextmanager
def _file(name: str) -> Iterator[Path]:
    """Lend the file; standard input is copied to one, because formats are told apart by looking twice."""
    if name != "-":
        yield user_path(name)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "import"
        with path.open("wb") as copy:
            _copy(sys.stdin.buffer, copy)
        yield path


def _copy(source: BinaryIO, target: BinaryIO) -> None:
    """Copy until the end, or until there is more than an import takes: it is refused by its size then."""
    from sessions.formats import Limits  # noqa: PLC0415

    left = Limits().file_bytes + 1
    while left > 0 and (chunk := source.read(min(_CHUNK, left))):
        target.write(chunk)
        left -= len(chunk)
