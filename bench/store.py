"""Measure a store of 10,000 sessions and 1,000,000 messages, compared with an empty one.

    python -m bench.store [--sessions N] [--messages N] [--quick]

The large store is filled by bulk insertion, the words drawn from a list with the usual steep frequencies.
Each operation is then timed on both stores, interleaved, as medians: the ratio is what size costs. Knows
nothing of how it is done.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from sqlite3 import sqlite_version

from sqlmodel import insert

from sessions import NewGeneration, Session, Store, open_store
from sessions.digest import message_digest
from sessions.tables import GenerationRow, MessageRow, SessionRow

PAGE = 20  # sessions on a page of the list, and hits on one of a search
AT_ONCE = 20_000  # rows in one statement
WORDS = 20_000  # different words in the large store
TALKED = 100  # messages of the session that is resumed, in both stores
START = datetime(2020, 1, 1, tzinfo=UTC)
BYTES_A_MEBIBYTE = 2**20


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large the large store is."""

    sessions: int
    messages: int


def fill(store: Store, size: Size, seed: int = 1) -> None:
    """Write sessions with all their messages and generations, digests included."""
    chance = random.Random(seed)
    checkpoint = checkpoint_of(store)
    sessions: list[dict[str, object]] = []
    messages: list[dict[str, object]] = []
    generations: list[dict[str, object]] = []
    each = size.messages // size.sessions
    number = 0
    for session_id in range(1, size.sessions + 1):
        parent: tuple[int, str] | None = None
        for position in range(each):
            number += 1
            role = "assistant" if position % 2 else "user"
            content = words(chance)
            digest = message_digest(
                parent=None if parent is None else parent[1],
                role=role,
                content=content,
                status="complete",
                token_ids=None,
            )
            messages.append(
                {
                    "id": number,
                    "session_id": session_id,
                    "parent_id": None if parent is None else parent[0],
                    "position": position,
                    "role": role,
                    "content": content,
                    "token_ids": None,
                    "status": "complete",
                    "digest": digest,
                    "created": START,
                }
            )
            if role == "assistant":
                generations.append(generation_values(session_id, number, checkpoint))
            parent = (number, digest)
        sessions.append(
            {
                "id": session_id,
                "name": f"session {session_id}",
                "seed": session_id,
                "settings": {},
                "head_id": number,
                "created": START,
                "last_used": START,
                "archived": False,
            }
        )
        if len(messages) >= AT_ONCE or session_id == size.sessions:
            write(store, sessions, messages, generations)


def write(store: Store, *rows: list[dict[str, object]]) -> None:
    """Write rows of the three tables, and empty the lists."""
    with store._database.writing() as transaction:  # noqa: SLF001 - the public way takes a commit a message
        transaction.connection().exec_driver_sql("PRAGMA defer_foreign_keys = ON")
        for table, values in zip((SessionRow, MessageRow, GenerationRow), rows, strict=True):
            if values:
                transaction.connection().execute(insert(table), values)
            values.clear()


def generation_values(session_id: int, reply_id: int, checkpoint: int) -> dict[str, object]:
    """Return the row of a generation that is complete."""
    return {
        "session_id": session_id,
        "user_message_id": reply_id - 1,
        "reply_id": reply_id,
        "checkpoint_id": checkpoint,
        "seed": reply_id,
        "attempt": 0,
        "sampling": {"temperature": 0.9},
        "max_new_tokens": 64,
        "prompt_hash": "p" * 64,
        "trimmed_turns": 0,
        "environment": {},
        "status": "complete",
        "finish_reason": "stop",
        "receipt": {"reply_tokens": 12},
        "timings": {},
        "created": START,
        "finished": START,
    }


def words(chance: random.Random) -> str:
    """Return a line of about 15 words; word n comes about as often as 1/n."""
    return " ".join(f"w{int(WORDS ** chance.random())}" for _ in range(15))


def checkpoint_of(store: Store) -> int:
    """Return the one checkpoint of the store."""
    return store.remember_checkpoint(fingerprint="f", parts={}, config={}, step=1, path="best.pt")


def talk(store: Store) -> Session:
    """Add the session that is resumed and gone on with, and say as much in it in either store."""
    session = store.create_session("resumed", seed=1, system=None, settings={})
    for _ in range(TALKED // 2):
        append(store)
    return session


def append(store: Store) -> None:
    """Store a turn: the question and what it asks for, then the reply; two durable transactions."""
    session = store.session("resumed")
    asked = NewGeneration(
        checkpoint_id=1,
        seed=1,
        attempt=0,
        sampling={},
        max_new_tokens=8,
        prompt_hash="",
        trimmed_turns=0,
        environment={},
    )
    turn = store.begin_turn(
        session.id, content="a question of w1 and w2", expected_head=session.head_id, generation=asked
    )
    store.finish_reply(
        turn.generation.id,
        content="a reply with w3 and w4",
        token_ids=range(16),
        status="complete",
        finish_reason="stop",
        receipt={},
        timings={},
    )


def resume(store: Store) -> None:
    """Read what a chat reads when it continues a session."""
    session = store.session("resumed")
    store.path(session.id)
    store.pending(session.id)


def opened(path: Path) -> None:
    """Open a store, and close it."""
    open_store(path).close()


def operations(path: Path, store: Store) -> Iterator[tuple[str, Callable[[], object]]]:
    """Give what is timed, by name."""
    yield "open", lambda: opened(path)
    yield f"list, first page of {PAGE}", lambda: store.sessions(limit=PAGE)
    yield "list, a page in the middle", lambda: store.sessions(limit=PAGE, offset=5000)
    yield "search, a word in every third message", lambda: store.search("w1", limit=PAGE)
    yield "search, two common words", lambda: store.search("w2 w3", limit=PAGE)
    yield "search, a rare word", lambda: store.search(f"w{WORDS - 7}", limit=PAGE)
    yield "search, four words that never meet", lambda: store.search("w1 w2 w3 nowhere", limit=PAGE)
    yield "last used", store.last_used
    yield "names that begin with", lambda: store.names("session 12")
    yield f"resume a session of {TALKED} messages", lambda: resume(store)
    yield "append a turn", lambda: append(store)


def timed(work: Callable[[], object]) -> float:
    """Return the milliseconds that some work takes."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000


def medians(places: tuple[Path, Path], stores: tuple[Store, Store], runs: int) -> dict[str, list[float]]:
    """Time every operation on both stores in turn; return the medians in milliseconds, empty one first."""
    both = [dict(operations(path, store)) for path, store in zip(places, stores, strict=True)]
    found: dict[str, list[float]] = {}
    for name in both[0]:
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(runs):
            for measured, by_name in zip(times, both, strict=True):
                measured.append(timed(by_name[name]))
        found[name] = [statistics.median(measured[1:]) for measured in times]  # the first run warms
    return found


def main(arguments: list[str] | None = None) -> int:
    """Fill a store, measure, and print the table."""
    parser = argparse.ArgumentParser(description="Measure a large store and an empty one.")
    parser.add_argument("--sessions", type=int, default=10_000)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=21)
    parser.add_argument("--folder", type=Path, help="where the stores lie (default: a temporary folder)")
    parser.add_argument("--quick", action="store_true", help="20 sessions, 400 messages, 3 runs")
    flags = parser.parse_args(arguments)
    size = Size(sessions=flags.sessions, messages=flags.messages)
    runs = flags.runs
    if flags.quick:
        size, runs = Size(sessions=20, messages=400), 3
    with tempfile.TemporaryDirectory(dir=flags.folder) as name:
        places = (Path(name) / "empty.db", Path(name) / "large.db")
        with open_store(places[0]) as empty, open_store(places[1]) as large:
            checkpoint_of(empty)
            seconds = timed(lambda: fill(large, size)) / 1000
            megabytes = places[1].stat().st_size / BYTES_A_MEBIBYTE
            print(
                f"{size.sessions:,} sessions, {size.messages:,} messages, {megabytes:,.0f} MiB, filled in "
                f"{seconds:.0f} s; medians of {runs} runs, {os.cpu_count()} cores, SQLite {sqlite_version}"
            )
            for store in (empty, large):
                talk(store)
            print("| operation | empty, ms | large, ms | ratio |\n|---|---|---|---|")
            for what, (small, big) in medians(places, (empty, large), runs).items():
                print(f"| {what} | {small:.2f} | {big:.2f} | {big / small:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
