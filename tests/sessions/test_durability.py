"""kill -9 at any moment loses nothing that was acknowledged, and leaves a store that is whole."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sessions import Store, open_store

CHILD = Path(__file__).with_name("append_until_killed.py")
KILLS = 5


@pytest.fixture
def place(sqlite_place):
    return sqlite_place


def killed_after(store_path: Path, lines: int, *options: str) -> list[tuple[int, str]]:
    """Run the child, kill it once it has acknowledged ``lines`` messages, and return all that it has."""
    child = subprocess.Popen(
        [sys.executable, str(CHILD), str(store_path), "talk", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(CHILD.parents[2])},
    )
    with child:
        assert child.stdout is not None
        acknowledged = [child.stdout.readline() for _ in range(lines)]
        child.send_signal(signal.SIGKILL)
        # What it still said before the signal arrived is acknowledged too; half a line is not.
        acknowledged += child.stdout.readlines()
    assert child.returncode == -signal.SIGKILL, "the child ended by itself"
    pairs = [line.split() for line in acknowledged if line.endswith("\n")]
    return [(int(message_id), digest) for message_id, digest in pairs]


def missing(store: Store, acknowledged: list[tuple[int, str]]) -> list[int]:
    """Return the ids of acknowledged messages that the store no longer has."""
    stored = {message.id: message.digest for message in store.path(store.session("talk").id)}
    return [message_id for message_id, digest in acknowledged if stored.get(message_id) != digest]


def faults(store: Store) -> list[str]:
    """Return what SQLite finds wrong with the file."""
    with store._database.reading() as transaction:
        connection = transaction.connection()
        report = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
        strays = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    return [line for line in report if line != "ok"] + [str(stray) for stray in strays]


@pytest.mark.timeout(120)
def test_kill_9_loses_no_acknowledged_message(store_path, store, session):
    store.close()
    moments = random.Random(20)
    acknowledged: list[tuple[int, str]] = []
    for _ in range(KILLS):
        acknowledged += killed_after(store_path, moments.randint(1, 12))
        with open_store(store_path) as survivor:
            assert missing(survivor, acknowledged) == []
            assert faults(survivor) == []
            interrupted = survivor.pending(session.id)
            head = survivor.path(session.id)[-1]
            assert (interrupted is None) == (head.role != "user")
    assert len(acknowledged) >= KILLS


def test_without_commits_the_same_check_finds_the_loss(store_path, store, session):
    store.close()
    acknowledged = killed_after(store_path, 1, "--without-commit")
    with open_store(store_path) as survivor:
        assert missing(survivor, acknowledged) == [acknowledged[0][0]]
