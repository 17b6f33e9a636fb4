"""The file of a store: who may read it, how SQLite is set, and what is refused without being touched."""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import event

from sessions import (
    NotAStore,
    StoreClosed,
    StoreDamaged,
    StoreFull,
    StoreLocked,
    StoreNotFound,
    StoreReadOnly,
    StoreUnavailable,
    open_store,
)
from sessions.sqlite_connection import Journal, journal_for, meaning_of


@pytest.fixture
def place(sqlite_place):
    return sqlite_place


@pytest.fixture
def umask_022():
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def pragmas(store) -> dict[str, object]:
    with store._database.reading() as transaction:
        connection = transaction.connection()
        names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        return {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names}


def test_the_store_is_private_whatever_the_umask(umask_022, store_path):
    with open_store(store_path) as store:
        store.create_session("a", seed=1, system=None, settings={})
        # While a transaction is open its journal lies beside the file, with the same words in it.
        with store._database.writing() as transaction:
            transaction.connection().exec_driver_sql("UPDATE session SET seed = 2")
            files = list(store_path.parent.iterdir())
            assert len(files) >= 2
            assert {mode(each) for each in files} == {0o600}
    assert mode(store_path.parent) == 0o700


def test_a_folder_that_was_there_keeps_its_mode(tmp_path):
    tmp_path.chmod(0o755)
    open_store(tmp_path / "sessions.db").close()
    assert mode(tmp_path) == 0o755
    assert mode(tmp_path / "sessions.db") == 0o600


def test_nothing_but_the_store_is_left_beside_it(store_path):
    open_store(store_path).close()
    assert [each.name for each in store_path.parent.iterdir()] == ["sessions.db"]


def test_a_link_to_a_file_that_is_not_there_yet_makes_that_file_private(umask_022, tmp_path):
    (tmp_path / "link.db").symlink_to(tmp_path / "target.db")
    open_store(tmp_path / "link.db").close()
    assert mode(tmp_path / "target.db") == 0o600
    assert (tmp_path / "link.db").is_symlink()


def test_stores_opened_at_the_same_moment_are_one_store(store_path):
    names = ["a", "b", "c", "d"]
    started = threading.Barrier(len(names), timeout=20)

    def open_and_write(name: str) -> None:
        started.wait()
        with open_store(store_path) as store:
            store.create_session(name, seed=1, system=None, settings={})

    with ThreadPoolExecutor(len(names)) as pool:
        for outcome in [pool.submit(open_and_write, name) for name in names]:
            outcome.result(timeout=40)
    with open_store(store_path) as store:
        assert sorted(each.name for each in store.sessions()) == names


def test_a_path_is_taken_as_text_or_url_too(tmp_path):
    open_store(str(tmp_path / "plain.db")).close()
    open_store(f"sqlite:///{tmp_path}/url.db").close()
    assert {each.name for each in tmp_path.iterdir()} == {"plain.db", "url.db"}


@pytest.mark.parametrize(
    ("version", "journal"),
    [
        ((3, 40, 1), Journal("delete", "EXTRA")),
        ((3, 51, 2), Journal("delete", "EXTRA")),
        ((3, 51, 3), Journal("wal", "FULL")),
        ((3, 52, 0), Journal("wal", "FULL")),
    ],
)
def test_the_journal_goes_by_the_version_of_sqlite(version, journal):
    assert journal_for(version) == journal


def test_every_connection_has_the_settings_that_keep_messages_safe(store):
    journal = journal_for(sqlite3.sqlite_version_info)
    assert pragmas(store) == {
        "journal_mode": journal.mode,
        "synchronous": {"FULL": 2, "EXTRA": 3}[journal.synchronous],
        "foreign_keys": 1,
        "busy_timeout": 5000,
    }


def test_a_store_left_in_another_journal_mode_is_brought_back(store, store_path):
    expected = pragmas(store)
    store.close()
    with closing(sqlite3.connect(store_path)) as other:
        other.execute("PRAGMA journal_mode = TRUNCATE")
        other.execute("PRAGMA journal_mode = WAL")
    with open_store(store_path) as again:
        assert pragmas(again) == expected


def test_foreign_keys_are_enforced(store, session):
    with pytest.raises(StoreUnavailable, match="FOREIGN KEY"), store._database.writing() as transaction:
        transaction.connection().exec_driver_sql("UPDATE session SET head_id = 99")
    assert store.session("talk") == session


def test_a_transaction_that_fails_leaves_nothing_behind(store, session):
    def write_and_fail():
        with store._database.writing() as transaction:
            transaction.connection().exec_driver_sql("DELETE FROM message WHERE id = -1")
            transaction.connection().exec_driver_sql("UPDATE session SET seed = 99")
            raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        write_and_fail()
    assert store.session("talk").seed == session.seed


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x",
        b"x" * 511,
        b"x" * 512,
        b"hello, I am a letter\n" * 400,
        b"SQLite format 3\0" + b"\xff" * 4080,
    ],
)
def test_a_foreign_file_is_refused_and_stays_as_it_was(tmp_path, content):
    path = tmp_path / "letter.txt"
    path.write_bytes(content)
    with pytest.raises((NotAStore, StoreDamaged), match=r"letter\.txt"):
        open_store(path)
    assert path.read_bytes() == content
    assert [each.name for each in tmp_path.iterdir()] == ["letter.txt"]


def test_a_database_of_something_else_is_refused_and_stays_as_it_was(tmp_path):
    path = tmp_path / "cookies.db"
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE cookies (id INTEGER)")
    before = path.read_bytes()
    with pytest.raises(NotAStore, match="table 'cookies'"):
        open_store(path)
    assert path.read_bytes() == before


def test_a_damaged_store_is_refused_and_stays_as_it_was(store, store_path):
    store.close()
    damaged = store_path.read_bytes()[:4096] + os.urandom(4096 * 3)
    store_path.write_bytes(damaged)
    with pytest.raises(StoreDamaged, match="restore a backup"), open_store(store_path) as opened:
        opened.sessions()
    assert store_path.read_bytes() == damaged


@pytest.mark.parametrize("kept", [1, 100, 511, 512, 1000, 4095, 4096, 5000, 8192, 20000])
def test_a_truncated_store_is_refused_and_stays_as_it_was(store, session, store_path, kept):
    store.close()
    truncated = store_path.read_bytes()[:kept]
    store_path.write_bytes(truncated)
    with pytest.raises((NotAStore, StoreDamaged)), open_store(store_path) as opened:
        opened.session("talk")
    assert store_path.read_bytes() == truncated


def test_a_folder_is_not_taken_for_a_store(tmp_path):
    with pytest.raises(StoreUnavailable, match="is a folder"):
        open_store(tmp_path)


def test_a_device_or_a_pipe_is_not_taken_for_a_store(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", "/dev/null"):
        # Without the advice to remove it.
        with pytest.raises(StoreUnavailable, match=r"is not a file: give the path of one$"):
            open_store(place)


def test_a_path_below_a_file_is_an_error_of_the_store(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        open_store(tmp_path / "file" / "sessions.db")


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file:x?uri=true",
        "nosuch://x",
        "://",
        "sqlite:///x.db?timeout=soon",
        "sqlite:///x.db?mode=ro",
        "sqlite:///x.db?timeout=1&cache=shared",
    ],
)
def test_a_url_that_keeps_nothing_or_means_nothing_is_refused(url):
    with pytest.raises(StoreUnavailable):
        open_store(url)


def test_a_missing_driver_is_named_and_a_password_is_not():
    with pytest.raises(StoreUnavailable, match="pymssql") as caught:
        open_store("mssql+pymssql://me:secret@example.invalid/db")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["postgresql+psycopg//me:secret@host/db", "postgres:me:secret@host", "postgresql://me:secret@host:x/db"],
)
def test_a_url_that_cannot_be_read_is_shown_without_its_password(url):
    with pytest.raises(StoreUnavailable) as caught:
        open_store(url)
    assert "secret" not in str(caught.value)


def test_a_store_that_is_not_there_is_created_only_where_that_is_wanted(tmp_path):
    places = [tmp_path / "typo.db", f"sqlite:///{tmp_path}/typo.db", str(tmp_path / "tpyo" / "dir" / "x.db")]
    for place in places:
        with pytest.raises(StoreNotFound, match="there is no session store at"):
            open_store(place, missing="refuse")
    with pytest.raises(StoreNotFound, match=r"there is no folder '.*tpyo/dir' to create"):
        open_store(places[2], missing="create file")
    assert list(tmp_path.iterdir()) == []
    with open_store(places[0], missing="create file") as store:
        assert store.caution == f"created a new session store at {places[0]}"
    with open_store(places[1], missing="refuse") as store:
        assert store.caution is None


def test_a_write_that_meets_a_lock_says_so_and_works_afterwards(store_path):
    with open_store(f"sqlite:///{store_path}?timeout=0.05") as store:
        with closing(sqlite3.connect(store_path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreLocked, match="locked by another program"):
                store.create_session("a", seed=1, system=None, settings={})
        assert store.create_session("a", seed=1, system=None, settings={}).name == "a"


def test_a_write_that_finds_no_room_stores_nothing_and_works_afterwards(store, session, exchange):
    with store._database.reading() as transaction:
        connection = transaction.connection()
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreFull, match="free some disk space"):
        exchange(store, session, "x" * 100_000, "no")
    assert len(store.path(session.id)) == 1
    with store._database.reading() as transaction:
        transaction.connection().exec_driver_sql("PRAGMA max_page_count = 100000")
    exchange(store, session, "x" * 100_000, "yes")


def test_a_write_to_a_store_that_permits_none_says_so(store, session):
    with store._database.reading() as transaction:
        transaction.connection().exec_driver_sql("PRAGMA query_only = ON")
    with pytest.raises(StoreReadOnly, match="permit writing"):
        store.update_settings(session.id, seed=1)


def test_an_error_without_a_meaning_of_its_own_still_is_one_of_the_store():
    assert type(meaning_of(sqlite3.ProgrammingError("odd"), "x.db")) is StoreUnavailable


def test_a_closed_store_says_so(store):
    store.close()
    store.close()
    with pytest.raises(StoreClosed, match="open it again"):
        store.sessions()


def test_the_list_takes_two_queries_however_many_sessions_there_are(store, exchange):
    statements: list[str] = []
    event.listen(
        store._database._engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2])
    )
    for count in range(1, 4):
        exchange(store, store.create_session(f"s{count}", seed=1, system=None, settings={}), "hi", "hello")
        statements.clear()
        assert len(store.sessions()) == count
        assert sum(each.startswith(("SELECT", "WITH")) for each in statements) == 2
