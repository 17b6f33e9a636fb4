"""`niels-chat import FILE`: store the sessions of a file.

The file is read to its end before anything is stored, so that a file that is refused leaves nothing. Storing
takes short transactions, so that no other program waits, and a large file is read a second time for it, so
that memory does not grow with the file. A session that is in the store already is left as it is, so an import
that was interrupted can be run again.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from niels_gpt.cli.exit_codes import FAILED, OK
from niels_gpt.cli.subcommands import helpers
from niels_gpt.conversation.errors import SessionTrouble
from niels_gpt.paths import user_path
from niels_gpt.terminal.table import counted

if TYPE_CHECKING:
    from sessions import SessionArchive, Store
    from sessions.formats import Source

_CHUNK = 1 << 20
_FORMATS = ("auto", "jsonl", "openai", "sharegpt", "chatgpt", "llm")
_BATCH_SESSIONS, _BATCH_MESSAGES = 200, 2_000  # of one transaction: about a tenth of a second
_MOST_KEPT = 32 << 20  # characters of sessions that are kept in memory between reading and storing
_OF_EACH = 1_000  # overhead of a message besides its text, in the same unit
_SHOWN = 10  # remarks of one kind, before the rest is counted
_TRIES = 3  # to find names while another program takes them


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    add = parser.add_argument
    add("file", metavar="FILE", help="the file to read; - for standard input")
    add("--format", choices=_FORMATS, default="auto", help="its format (default: auto, detected)")
    add("--name", metavar="NAME", help="session name, for a file with one session")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--strict", action="store_true", help="refuse a file of which a part would be left out")
    kind.add_argument(
        "--skip-bad", action="store_true", help="skip sessions that cannot be read, and take the rest"
    )
    helpers.add_store(parser)


def run(flags: argparse.Namespace) -> int:
    """Import the file and print the names of the new sessions. FAILED if there is none in it."""
    with _file(flags.file) as path:
        found = _Found(path, flags)
        if not found.count:
            _say_left_out(found.source)
            raise SessionTrouble(f"{found.source.name}: there is no session with a message in it")
        if flags.name is not None and found.count != 1:
            raise SessionTrouble(f"--name is for a file with one session; this one has {found.count:,}")
        with helpers.opened_store(flags, make=True) as store:
            imported = _store(store, found.archives(), flags.name)
    _say_left_out(found.source)
    if imported.known:
        helpers.remark(f"already in the store: {counted(imported.known, 'session')}")
    helpers.remark(
        f"imported {counted(imported.sessions, 'session')} with {counted(imported.messages, 'message')}"
    )
    return FAILED if found.source.skipped else OK


@dataclass
class _Imported:
    """How many sessions were stored, with how many messages, and how many were in the store before."""

    sessions: int = 0
    messages: int = 0
    known: int = 0


class _Found:
    """The sessions of a file that was read once to its end."""

    def __init__(self, path: Path, flags: argparse.Namespace) -> None:
        from sessions.formats import detected  # noqa: PLC0415 - heavy, as the store is

        self._path = path
        self._flags = flags
        self.source = self._opened()
        self._format = detected(self.source).name if flags.format == "auto" else flags.format
        self._kept: list[SessionArchive] | None = []
        self.count = characters = 0
        for archive in self._read(self.source):
            self.count += 1
            characters += sum(len(message.content) + _OF_EACH for message in archive.messages)
            if characters > _MOST_KEPT:
                self._kept = None
            elif self._kept is not None:
                self._kept.append(archive)

    def archives(self) -> Iterator[SessionArchive]:
        """Return the sessions; a large file is read again."""
        return self._read(self._opened()) if self._kept is None else iter(self._kept)

    def _opened(self) -> Source:
        from sessions.formats import Source  # noqa: PLC0415 - heavy, as the store is

        name = "standard input" if self._flags.file == "-" else self._path.name
        return Source(self._path, name=name, strict=self._flags.strict, skip_bad=self._flags.skip_bad)

    def _read(self, source: Source) -> Iterator[SessionArchive]:
        from sessions.formats import read_sessions  # noqa: PLC0415 - heavy, as the store is

        return read_sessions(source, format_name=self._format)


def _store(store: Store, archives: Iterator[SessionArchive], name: str | None) -> _Imported:
    """Store the archives that are not in the store yet, and print their names as they are stored."""
    names = _Names(store, name)
    done = _Imported()
    renamed = 0

    def new() -> Iterator[SessionArchive]:
        for archive in archives:
            if names.has(archive):
                done.known += 1
            else:
                yield archive

    for batch in _batches(new()):
        done.sessions += len(batch)
        done.messages += sum(len(archive.messages) for archive in batch)
        for archive, stored in zip(batch, _stored(store, batch, names), strict=True):
            helpers.emit(stored)
            if name is None and stored != archive.session.name:
                renamed += 1
                if renamed <= _SHOWN:
                    helpers.remark(f"name {archive.session.name!r} already in use; imported as {stored!r}")
    if renamed > _SHOWN:
        helpers.remark(f"{renamed - _SHOWN:,} more names already in use; imported with a number")
    return done


def _batches(archives: Iterator[SessionArchive]) -> Iterator[list[SessionArchive]]:
    batch: list[SessionArchive] = []
    messages = 0
    for archive in archives:
        batch.append(archive)
        messages += len(archive.messages)
        if len(batch) >= _BATCH_SESSIONS or messages >= _BATCH_MESSAGES:
            yield batch
            batch, messages = [], 0
    if batch:
        yield batch


def _stored(store: Store, batch: Sequence[SessionArchive], names: _Names) -> list[str]:
    """Store a batch under names that no other session has; return them."""
    from sessions import SessionExists  # noqa: PLC0415 - heavy, as the store is

    for attempt in range(_TRIES):
        try:
            stored = store.import_sessions(batch, names=[names.new(each.session.name) for each in batch])
        except SessionExists:
            # Another program took a name since they were read.
            if names.given is not None or attempt == _TRIES - 1:
                raise
            names.read()
        else:
            return [each.name for each in stored]
    raise AssertionError


class _Names:
    """The names that are in use, the sessions that have them, and names that are free."""

    def __init__(self, store: Store, given: str | None) -> None:
        self._store = store
        self.given = given
        self._taken: set[str] = set()
        self._tried: Counter[str] = Counter()
        self._stored: dict[str, list[str]] = {}
        if given is None:
            self.read()
            for name, digest in store.head_digests().items():
                self._stored.setdefault(digest, []).append(name)

    def read(self) -> None:
        """Read the names that are in use."""
        self._taken = {each.name for each in self._store.sessions(archived=True)}
        self._tried.clear()

    def has(self, archive: SessionArchive) -> bool:
        """Return whether the session was in the store, with all its branches, under its name or a number."""
        if archive.session.head_id is None:
            return False
        digests = {message.id: message.digest for message in archive.messages}
        its_name = re.compile(re.escape(archive.session.name) + r"(-\d+)?")
        return any(
            its_name.fullmatch(name) and set(digests.values()) <= self._digests_of(name)
            for name in self._stored.get(digests[archive.session.head_id], [])
        )

    def _digests_of(self, name: str) -> set[str]:
        stored = self._store.export_session(self._store.session(name).id)
        return {message.digest for message in stored.messages}

    def new(self, wanted: str) -> str:
        """Return the given name, or the wanted one with a number behind it if it is in use."""
        if self.given is not None:
            return self.given
        name = wanted
        while name in self._taken:
            # Counted on for each name, so that many equal names take no longer than others.
            self._tried[wanted] += 1
            name = f"{wanted}-{self._tried[wanted] + 1}"
        self._taken.add(name)
        return name


def _say_left_out(source: Source) -> None:
    for error in source.skipped[:_SHOWN]:
        helpers.remark(f"skipped: {error.place}: {error.what}")
    if len(source.skipped) > _SHOWN:
        helpers.remark(f"skipped: {len(source.skipped) - _SHOWN:,} more")
    if source.left_out:
        # In the singular, the first word that has an s at its end lacks it: "1 message of tools".
        kinds = [
            f"{count:,} {re.sub('s$|s(?= )', '', kind, count=1) if count == 1 else kind}"
            for kind, count in sorted(source.left_out.items())
        ]
        helpers.remark(f"left out: {', '.join(kinds)}")


@contextmanager
def _file(name: str) -> Iterator[Path]:
    """Give the path of the file; standard input is copied to one, because the file is read more than once."""
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
