"""kill -9 at random moments, over appends, replies, forks, migrations and the making of a store.

    python tests/sessions/kill_campaign.py --kills 1000

After each kill the store is opened and looked at: every acknowledged message must be there with its digest,
the check must find nothing, and an interrupted reply must be found and come out exactly as it was to be.
With --without-commits a child's commits after its first are rollbacks: the same look must find losses, and
the exit is 1.
"""

from __future__ import annotations

import argparse
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import alembic.command  # noqa: F401 - imported before the forks, so that no child's short life is spent on it

sys.path.insert(0, str(Path(__file__).parents[2]))

import sqlmodel

from sessions import Message, Store, open_store
from sessions.tables import MessageRow
from tests.sessions.scripted_talk import Talker, finish, unscripted_replies

OLD_STORE = Path(__file__).with_name("data") / "store_0001.db"
LONGEST_WAIT_SECONDS = {"talks": 0.03, "creations": 0.2, "migrations": 0.3}
MOST_MESSAGES = 12  # that a child acknowledges before it is killed
KILLS_A_STORE = 15  # then a fresh one: looking at everything after each kill grows with the store
Acknowledged = dict[int, str]


def killed(work: Callable[[int], None], *, lines: int, seconds: float) -> bytes:
    """Fork a child that works and writes to a pipe, kill it, return all that it wrote.

    It is killed so many seconds after so many lines, the first of which comes when it is about to open the
    store, unless it ends before.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            work(writing)
        finally:
            os._exit(0)
    os.close(writing)
    said = bytearray()
    while said.count(b"\n") < lines and (piece := os.read(reading, 65536)):
        said += piece
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and select.select([reading], [], [], left)[0]:
        if not (piece := os.read(reading, 65536)):
            break
        said += piece
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as rest:
        said += rest.read()
    return bytes(said)


def talk(path: Path, seed: int, *, commits: bool) -> Callable[[int], None]:
    """Return the work of a child: open the store, talk, write each message's id and digest when durable."""

    def work(pipe: int) -> None:
        os.write(pipe, b"\n")
        store = open_store(path)
        dialect = store._database._engine.dialect

        def tell(message: Message) -> None:
            os.write(pipe, f"{message.id} {message.digest}\n".encode())
            if not commits:
                dialect.do_commit = dialect.do_rollback

        for _ in Talker(store, seed, tell).steps():
            pass

    return work


def acknowledged_in(said: bytes) -> Acknowledged:
    """Return the messages that a child acknowledged; half a line is no acknowledgement."""
    lines = [line.split() for line in said.decode().split("\n")[:-1]]
    return {int(line[0]): line[1] for line in lines if len(line) == 2}


def look(store: Store, acknowledged: Acknowledged, counts: Counter[str]) -> list[str]:
    """Return what is wrong with a store after a kill; finish the replies that were interrupted."""
    problems = store.check()
    # Before a reply is finished: finished exactly, it would stand where a lost one stood.
    with store._database.reading() as transaction:
        stored = dict(transaction.exec(sqlmodel.select(MessageRow.id, MessageRow.digest)).all())
    for summary in store.sessions(archived=True):
        interrupted = store.pending(summary.id)
        if interrupted is not None:
            counts["interrupted replies finished exactly"] += 1
            finish(store, interrupted)
    problems += [f"reply {number} is not the one that it should be" for number in unscripted_replies(store)]
    problems += [f"message {number} is lost" for number in acknowledged.items() - stored.items()]
    return problems


def messages_before_the_kill(kind: str, chance: random.Random, *, commits: bool) -> int:
    """Return how many messages a child acknowledges at least; more than one where the second must be lost."""
    if not commits:
        return MOST_MESSAGES
    return chance.randrange(MOST_MESSAGES) if kind == "talks" else 0


def campaign(kills: int, seed: int, folder: Path, *, commits: bool = True) -> tuple[Counter[str], list[str]]:
    """Return what happened, counted, and what was wrong."""
    chance = random.Random(seed)
    counts: Counter[str] = Counter()
    problems: list[str] = []
    acknowledged: Acknowledged = {}
    path = folder / "none"
    for number in range(kills):
        if number % KILLS_A_STORE == 0:
            path, acknowledged = folder / f"{number}.db", {}
            kind = chance.choice(("creations", "migrations"))
        else:
            kind = chance.choices(("talks", "creations", "migrations"), (8, commits, commits))[0]
        if kind != "talks":
            path, acknowledged = folder / f"{number}.db", {}
            if kind == "migrations":
                shutil.copyfile(OLD_STORE, path)
        # Without commits every child talks in one session: what comes after its first commit must be lost.
        seed_of_talk = chance.randrange(2**32) * (1 if commits else 3)
        said = killed(
            talk(path, seed_of_talk, commits=commits),
            lines=1 + messages_before_the_kill(kind, chance, commits=commits),
            seconds=chance.uniform(0, LONGEST_WAIT_SECONDS[kind]),
        )
        new = acknowledged_in(said)
        acknowledged |= new
        counts[f"kills in {kind}"] += 1
        counts["acknowledged messages"] += len(new)
        with open_store(path) as store:
            if kind == "migrations" and len(store.path(store.session("talk").id)) != 5:
                problems.append("a migration lost messages")
            found = look(store, acknowledged, counts)
            problems += [f"after kill {number} ({kind}): {problem}" for problem in found]
    return counts, problems


def main(arguments: list[str] | None = None) -> int:
    """Run a campaign, print what happened, and return 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the stores lie (default: a temporary folder)")
    parser.add_argument("--without-commits", action="store_true", help="the control: must find losses")
    flags = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=flags.folder) as name:
        counts, problems = campaign(flags.kills, flags.seed, Path(name), commits=not flags.without_commits)
    for what, count in sorted(counts.items()):
        print(f"{count:8,} {what}")
    for problem in problems[:20]:
        print(problem, file=sys.stderr)
    print(f"{len(problems):8,} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
