"""Power cuts: the store's writes are logged, and every state that a cut could leave is opened by the store.

    python tests/sessions/power_cut_campaign.py --states 10000

A child talks in a store while ``write_log.c`` logs its writes and syncs. The log is replayed to every prefix,
each with unsynced writes lost in several ways (``power_cut.py``). In every state each message acknowledged
before the cut must be there with its digest, and the check must find nothing. With --without-sync the child's
store runs with synchronous=OFF: the same look must then find losses, and the exit is 1. Needs a C compiler.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import sqlmodel

from sessions import Message, StoreError, open_store
from sessions.tables import MessageRow
from tests.sessions.power_cut import Disk, records
from tests.sessions.scripted_talk import Talker

HERE = Path(__file__).parent
ACKNOWLEDGED = "acknowledged"  # the file beside the store that the child writes what is durable to
KINDS = ("none", "all", "some", "torn")
Acknowledged = dict[int, str]
State = dict[str, bytes]


def talk(folder: Path, steps: int, seed: int, *, syncs: bool) -> None:
    """Make a store in ``folder`` and talk in it: the child's work."""
    with open_store(folder / "sessions.db") as store, (folder / ACKNOWLEDGED).open("wb", 0) as told:
        if not syncs:
            connection = store._database._engine.raw_connection()
            connection.cursor().execute("PRAGMA synchronous = OFF")
            connection.close()

        def tell(message: Message) -> None:
            told.write(f"{message.id} {message.digest}\n".encode())

        for _ in islice(Talker(store, seed, tell).steps(), steps):
            pass


def logged(folder: Path, steps: int, seed: int, *, syncs: bool) -> Path:
    """Let a child talk in a new folder ``data`` of ``folder``, and return the log of its writes."""
    shim, log, data = folder / "write_log.so", folder / "log", folder / "data"
    data.mkdir(mode=0o700)
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise SystemExit("this campaign needs a C compiler (Debian: apt install gcc)")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", shim, HERE / "write_log.c", "-ldl"], check=True, timeout=60
    )
    subprocess.run(
        [sys.executable, __file__, "--child", data, "--steps", str(steps), "--seed", str(seed)]
        + ([] if syncs else ["--without-sync"]),
        env={**os.environ, "LD_PRELOAD": str(shim), "WATCHED": str(data), "WRITE_LOG": str(log)},
        check=True,
        timeout=300,
    )
    return log


class Inspector:
    """Puts states on a disk, opens them and counts what was found; looks at no state twice."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: set[bytes] = set()
        self.counts: Counter[str] = Counter()
        self.first_problem = ""

    @property
    def states(self) -> int:
        """How many different states were looked at."""
        return self.counts["states"]

    def inspect(self, state: State, acknowledged: Acknowledged) -> None:
        """Look at what a power cut left, in which ``acknowledged`` must be."""
        digest = hashlib.sha256(repr(sorted(acknowledged)).encode())
        for path, content in sorted(state.items()):
            digest.update(f"{path} {len(content)} ".encode() + content)
        if digest.digest() in self._seen:
            return
        self._seen.add(digest.digest())
        self.counts["states"] += 1
        found = self._problem(state, acknowledged)
        if found:
            self.counts[found[0]] += 1
            self.first_problem = self.first_problem or f"{found[0]}: {found[1]}"

    def _problem(self, state: State, acknowledged: Acknowledged) -> tuple[str, str] | None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        for path, content in state.items():
            (self._folder / Path(path).name).write_bytes(content)
        store_path = self._folder / "sessions.db"
        if not store_path.exists():
            return ("lost stores", "the file is not there") if acknowledged else None
        try:
            with open_store(store_path) as store:
                with store._database.reading() as transaction:
                    query = sqlmodel.select(MessageRow.id, MessageRow.digest)
                    stored = dict(transaction.exec(query).all())
                faults = store.check()
        except StoreError as error:
            return "refused stores", str(error)
        if lost := acknowledged.items() - stored.items():
            return "states that lost acknowledged messages", f"messages {sorted(lost)}"
        return ("damaged stores", faults[0]) if faults else None


def campaign(folder: Path, states: int, seed: int, *, steps: int, syncs: bool) -> Inspector:
    """Replay logs of talks until so many different states were looked at."""
    inspector = Inspector(folder / "state")
    for number in range(1000):
        talk_folder = folder / f"talk{number}"
        talk_folder.mkdir()
        log = logged(talk_folder, steps, seed + number, syncs=syncs)
        replay(log, str(talk_folder / "data"), inspector, states, random.Random(seed + number))
        if inspector.states >= states:
            break
    return inspector


def replay(log: Path, watched: str, inspector: Inspector, states: int, chance: random.Random) -> None:
    """Cut the power after each record of a log, in each way, or at a sample of those."""
    everything = list(records(log))
    share = min(1.0, states / (len(everything) * len(KINDS)) * 1.5)
    disk = Disk(watched)
    acknowledged: Acknowledged = {}
    for record, data in everything:
        handle = int(record[1]) if record[0] == "W" else None
        if handle is not None and disk.open_files.get(handle) is disk.names.get(f"{watched}/{ACKNOWLEDGED}"):
            message_id, digest = data.decode().split()
            acknowledged[int(message_id)] = digest
            continue
        disk.do(record, data)
        for kind in KINDS:
            if inspector.states < states and chance.random() < share:
                state = disk.after_power_cut(kind, chance)
                inspector.inspect(
                    {path: held for path, held in state.items() if not path.endswith(ACKNOWLEDGED)},
                    acknowledged,
                )


def main(arguments: list[str] | None = None) -> int:
    """Run a campaign, print what was found, and return 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--states", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=60, help="things that a child does in a store")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the files lie (default: a temporary folder)")
    parser.add_argument("--without-sync", action="store_true", help="the control: must find losses")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    flags = parser.parse_args(arguments)
    if flags.child is not None:
        talk(flags.child, flags.steps, flags.seed, syncs=not flags.without_sync)
        return 0
    with tempfile.TemporaryDirectory(dir=flags.folder) as name:
        inspector = campaign(
            Path(name), flags.states, flags.seed, steps=flags.steps, syncs=not flags.without_sync
        )
    for what, count in inspector.counts.items():
        print(f"{count:8,} {what}")
    problems = inspector.counts.total() - inspector.states
    print(f"{problems:8,} problems")
    if problems:
        print(inspector.first_problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
