"""Long reads: no writer waits for them, and the work of a turn does not grow with its session."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from sessions import maintenance, open_store, sqlite_file, transfer
from sessions import store as store_module


@pytest.fixture
def place(sqlite_place):
    return sqlite_place


@pytest.fixture
def writer(place):
    """A function that commits in another connection, which waits for a lock no longer than a moment."""
    with open_store(f"sqlite:///{place}?timeout=0.02") as other:
        written: list[str] = []

        def write():
            written.append(other.create_session(f"w{len(written)}", seed=1, system=None, settings={}).name)

        write.written = written
        yield write


def meanwhile(monkeypatch, module, name, write):
    """Make a function of a module write before it works."""
    real = getattr(module, name)

    def writing(*arguments, **options):
        write()
        return real(*arguments, **options)

    monkeypatch.setattr(module, name, writing)


def test_a_writer_commits_during_a_check(store, session, exchange, writer, monkeypatch):
    exchange(store, session, "hi", "hello")
    for part in ("structure_faults", "message_faults", "generation_faults"):
        meanwhile(monkeypatch, maintenance, part, writer)
    meanwhile(monkeypatch, maintenance.search, "index_faults", writer)
    assert store.check() == []
    assert len(writer.written) >= 4
    assert len(store.sessions()) == 1 + len(writer.written)


@pytest.mark.parametrize("method", ["verify", "export_session"])
def test_a_writer_commits_while_a_session_is_verified_or_exported(
    store, session, writer, monkeypatch, method
):
    meanwhile(monkeypatch, transfer, "verified", writer)
    getattr(store, method)(session.id)
    assert writer.written


def test_a_writer_commits_while_an_import_is_checked(store, session, exchange, writer, monkeypatch):
    exchange(store, session, "hi", "hello")
    archive = store.export_session(session.id)
    meanwhile(monkeypatch, store_module, "checked_archive", writer)
    assert store.import_session(archive, name="again").name == "again"
    assert writer.written == ["w0"]


class Interrupted:
    """A connection whose copy is interrupted by a commit after every step."""

    def __init__(self, path, write):
        self.connection = sqlite3.connect(path)
        self.write = write
        self.copies = 0

    def backup(self, target, *, progress=None, **options):
        self.copies += 1

        def interrupt(*state):
            self.write()
            progress(*state)

        self.connection.backup(target, progress=None if progress is None else interrupt, **options)


def test_a_copy_that_is_interrupted_again_and_again_is_made_at_once(
    store, store_path, writer, tmp_path, monkeypatch
):
    monkeypatch.setattr(sqlite_file, "_PAGES_AT_ONCE", 1)
    source = Interrupted(store_path, writer)
    with closing(source.connection), closing(sqlite3.connect(tmp_path / "copy.db")) as target:
        sqlite_file._copy_pages(source, target)
    assert source.copies == 2
    assert len(writer.written) > sqlite_file._RESTARTS
    with open_store(tmp_path / "copy.db") as copy:
        assert len(copy.sessions()) == len(writer.written)


def test_a_check_leaves_no_copy_behind(store, session, store_path):
    before = sorted(store_path.parent.iterdir())
    assert store.check() == []
    assert sorted(store_path.parent.iterdir()) == before


def steps_of(store, work):
    """Return how many instructions SQLite runs for some work."""
    with store._database.reading() as transaction:
        connection = transaction.connection().connection.driver_connection
    steps = 0

    def count():
        nonlocal steps
        steps += 1

    connection.set_progress_handler(count, 10)
    work()
    connection.set_progress_handler(None, 0)
    return steps


def test_the_work_of_a_turn_does_not_grow_with_the_session(store, session, exchange):
    def turn():
        exchange(store, session, "a few words", "some more words")

    turn()
    first = steps_of(store, turn)
    for _ in range(40):
        turn()
    assert steps_of(store, turn) < 1.5 * first
