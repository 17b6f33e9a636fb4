"""What a disk may hold after a power cut, from a log of what was done to the files of one folder.

A write lasts when its file is synced after it, a name when its folder is. Of what was not synced, any part
may have reached the disk: none, all, some writes without earlier ones, a write up to some sector; of names,
those up to some moment. Knows the log's format (``write_log.c``), and nothing about SQLite.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SECTOR = 512  # bytes that a disk writes whole

Change = tuple[int, bytes | None]  # bytes at an offset; None: the file ends there


@dataclass
class File:
    """A file's bytes that would last, and the changes since."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[Change] = field(default_factory=list)

    def sync(self) -> None:
        for change in self.pending:
            apply(self.durable, change)
        self.pending.clear()

    def after(self, survivors: list[Change]) -> bytes:
        content = bytearray(self.durable)
        for change in survivors:
            apply(content, change)
        return bytes(content)


def apply(content: bytearray, change: Change) -> None:
    """Make one change to the bytes of a file."""
    offset, data = change
    content.extend(bytes(max(0, offset - len(content))))
    if data is None:
        del content[offset:]
    else:
        content[offset : offset + len(data)] = data


Names = dict[str, File]


@dataclass
class Disk:
    """The watched folder as programs see it, and as it would be found after a power cut."""

    folder: str
    names: Names = field(default_factory=dict)
    durable_names: Names = field(default_factory=dict)
    pending_names: list[Names] = field(default_factory=list)  # the folder after each change since its sync
    open_files: dict[int, File | None] = field(default_factory=dict)  # None: the folder itself

    def change_names(self, names: Names) -> None:
        self.names = names
        self.pending_names.append(names)

    def do(self, record: list[str], data: bytes) -> None:
        """Do what one record of the log says."""
        kind, *words = record
        if kind == "O":
            self._open(int(words[0]), int(words[1]), words[2])
        elif kind in "UR":
            kept = {name: file for name, file in self.names.items() if name != words[0]}
            self.change_names(kept if kind == "U" else {**kept, words[1]: self.names[words[0]]})
        elif kind == "L":
            self.change_names({**self.names, words[1]: self.names[words[0]]})
        elif kind == "C":
            self.open_files.pop(int(words[0]), None)
        else:
            self._change_file(kind, self.open_files[int(words[0])], words[1:], data)

    def _open(self, handle: int, flags: int, path: str) -> None:
        if path.rstrip("/") == self.folder:
            self.open_files[handle] = None
            return
        if path not in self.names:
            self.change_names({**self.names, path: File()})
        self.open_files[handle] = self.names[path]
        if flags & os.O_TRUNC:
            self.names[path].pending.append((0, None))

    def _change_file(self, kind: str, file: File | None, words: list[str], data: bytes) -> None:
        if file is None:
            if kind == "S":
                self.durable_names = self.names
                self.pending_names.clear()
        elif kind == "W":
            file.pending.append((int(words[0]), data))
        elif kind == "T":
            file.pending.append((int(words[0]), None))
        elif kind == "S":
            file.sync()

    def after_power_cut(self, kind: str, chance: random.Random) -> dict[str, bytes]:
        """Return what is found then; ``kind`` says how much of what was not synced has survived."""
        moments = [self.durable_names, *self.pending_names]
        moment = {"none": 0, "all": -1}.get(kind, chance.randrange(len(moments)))
        names = moments[moment]
        return {path: file.after(survivors(file.pending, kind, chance)) for path, file in names.items()}


def survivors(pending: list[Change], kind: str, chance: random.Random) -> list[Change]:
    """Return the changes of a file that reached the disk."""
    if kind == "none":
        return []
    if kind == "all":
        return pending
    some = [change for change in pending if chance.random() < 0.5]
    if kind == "torn" and some:
        place = chance.randrange(len(some))
        offset, data = some[place]
        if data is not None:
            end = chance.randrange(0, len(data) + 1, SECTOR)
            some[place] = (offset, data[:end])
    return some


def records(log: Path) -> Iterator[tuple[list[str], bytes]]:
    """Give the records of a log: the words of each line, and the bytes of a write."""
    with log.open("rb") as lines:
        while line := lines.readline():
            words = line.decode().split()
            yield words, lines.read(int(words[3])) if words[0] == "W" else b""
