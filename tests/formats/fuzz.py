"""Valid files with something wrong in them: whatever it is, reading ends in sessions or in one typed error.

`python -m tests.formats.fuzz --files 20000` is the campaign; the suite runs a short one. Each file has a
number, and the same number is the same file.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sessions import SessionArchive, StoreError, open_store
from sessions.formats import Limits, Source, read_sessions, write_sessions
from tests.formats.conftest import told_bytes
from tests.formats.test_chatgpt import branched
from tests.formats.test_llm_logs import SAID, WITH_FRAGMENTS, logs

HOSTILE: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    2**63,
    2**70,
    1.5,
    1e18,
    "",
    "x" * 300,
    "\ud800",
    "\x00\x1b\u2028",
    [],
    [None],
    {},
    {"a": []},
    [[[[]]]],
    "2026-13-99",
    "system",
)


def spoiled(content: bytes, number: int) -> bytes:
    """Return the file with the given number."""
    chance = random.Random(number)
    anywhere = (_bytes, _cut)
    is_text = not content.startswith(b"SQLite")
    ways = (*anywhere, _doubled, _values, _values, _values, _keys) if is_text else anywhere
    return chance.choice(ways)(content, chance)


def _bytes(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        changed[chance.randrange(len(changed))] = chance.choice((*b'"\\[]{},:0n\n', 0, 0xFF, 0x80))
    return bytes(changed)


def _cut(content: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(content))
    return content[:start] + content[start + chance.randint(1, 200) :]


def _doubled(content: bytes, chance: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    at = chance.randrange(len(lines))
    return b"".join([*lines[: at + 1], *lines[chance.randrange(len(lines)) :]])


def _values(content: bytes, chance: random.Random) -> bytes:
    return _within(content, chance, lambda holder, key: holder.__setitem__(key, chance.choice(HOSTILE)))


def _keys(content: bytes, chance: random.Random) -> bytes:
    return _within(content, chance, lambda holder, key: holder.__delitem__(key))


def _within(content: bytes, chance: random.Random, change: Callable[[Any, Any], None]) -> bytes:
    """Change one value somewhere inside of one record."""
    lines = content.decode().split("\n")[:-1] or [content.decode()]
    at = chance.randrange(len(lines))
    record = json.loads(lines[at])
    places = list(_places(record))
    if places:
        change(*chance.choice(places))
    lines[at] = json.dumps(record)
    return "\n".join([*lines, ""]).encode()


def _places(value: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    keys: Sequence[Any] = list(value) if isinstance(value, dict) else range(len(value))
    for key in keys:
        found.append((value, key))
        if isinstance(value[key], (dict, list)):
            found += _places(value[key])
    return found


def outcome(path: Path) -> list[SessionArchive] | StoreError:
    """Return what a file gives; anything else than sessions or a typed error is raised."""
    try:
        return list(read_sessions(Source(path, limits=Limits(record_bytes=1 << 20))))
    except StoreError as refused:
        return refused


def campaign(contents: Sequence[bytes], *, files: int, folder: Path) -> tuple[int, int, int]:
    """Read and import that many files; return how many were refused, turned away by the store, imported."""
    refused = turned_away = imported = 0
    path = folder / "file"
    with open_store(folder / "fuzz.db") as store:
        for number in range(files):
            path.write_bytes(spoiled(contents[number % len(contents)], number))
            found = outcome(path)
            if isinstance(found, StoreError):
                assert "\n" not in str(found), number
                refused += 1
                continue
            try:
                store.import_sessions(found, names=[f"{number}-{at}" for at in range(len(found))])
                imported += 1
            except StoreError:
                turned_away += 1
        assert store.check() == []
    return refused, turned_away, imported


def valid_files() -> list[bytes]:
    """Return one file of each format, and a second one of our own."""
    files: list[bytes] = []
    with tempfile.TemporaryDirectory() as folder:
        logs_file = logs(Path(folder) / "logs.db", WITH_FRAGMENTS, SAID).read_bytes()
        path = Path(folder) / "told.db"
        path.write_bytes(told_bytes(Path(folder)))
        with open_store(path) as store:
            archive = store.export_session(store.session("talk").id)
    for name in ("jsonl", "openai", "sharegpt"):
        out = io.StringIO()
        write_sessions([archive], out, format_name=name)
        files.append(out.getvalue().encode())
    return [*files, files[0], logs_file, json.dumps([branched()]).encode(), json.dumps(branched()).encode()]


def main() -> None:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--files", type=int, default=20_000)
    files = parser.parse_args().files
    with tempfile.TemporaryDirectory() as folder:
        refused, turned_away, imported = campaign(valid_files(), files=files, folder=Path(folder))
    print(f"{files} files: {refused} refused, {turned_away} turned away by the store, {imported} imported")


if __name__ == "__main__":
    main()
