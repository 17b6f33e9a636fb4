"""What is PostgreSQL's own: how a server is reached, waited for, lost and found again."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import make_url

from sessions import NotAStore, StoreLocked, StoreUnavailable, open_store, search
from sessions.tables import MessageRow, SessionRow


@pytest.fixture
def place(postgresql_place):
    return postgresql_place


def database_of(place: str) -> str:
    return make_url(place).database


def test_a_server_that_is_not_there_is_unavailable(tmp_path):
    with pytest.raises(StoreUnavailable, match="cannot be") as caught:
        open_store(f"postgresql+psycopg://me:secret@/store?host={tmp_path}")
    assert "secret" not in str(caught.value)


def test_a_server_that_was_away_is_used_again_when_it_is_back(store, session, server, place):
    name = database_of(place)
    server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")  # noqa: S608
    assert store.session("talk") == session


def test_a_connection_that_is_lost_within_a_write_stores_nothing(store, session):
    def lose_the_connection():
        with store._database.writing() as transaction:
            connection = transaction.connection()
            connection.exec_driver_sql("UPDATE session SET seed = 99")
            connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")

    with pytest.raises(StoreUnavailable, match="the server says"):
        lose_the_connection()
    assert store.session("talk").seed == session.seed


def test_a_write_that_waits_too_long_for_another_programs_lock_says_so(store, session, place):
    with open_store(f"{place}&timeout=0.05") as other, store._database.writing() as transaction:
        transaction.connection().exec_driver_sql("UPDATE session SET seed = 99")
        with pytest.raises(StoreLocked, match="locked by another program"):
            other.update_settings(session.id, seed=3)
    assert store.session("talk").seed == 99


def test_a_database_of_something_else_is_refused(server):
    with server.database() as name:
        server.execute("CREATE TABLE cookies (id integer)", database=name)
        with pytest.raises(NotAStore, match="table 'cookies'"):
            open_store(server.url(name))


def test_programs_that_open_an_empty_database_at_once_make_one_store(server):
    started = threading.Barrier(3, timeout=20)

    def open_and_write(name: str) -> None:
        started.wait()
        with open_store(place) as store:
            store.create_session(name, seed=1, system=None, settings={})

    with server.database() as database:
        place = server.url(database)
        with ThreadPoolExecutor(3) as pool:
            for outcome in [pool.submit(open_and_write, name) for name in "abc"]:
                outcome.result(timeout=40)
        with open_store(place) as store:
            assert sorted(store.names()) == ["a", "b", "c"]


def test_every_commit_is_durable_whatever_the_server_is_set_to(store, server, place):
    server.execute(f"ALTER DATABASE {database_of(place)} SET synchronous_commit = off")
    with open_store(place) as again, again._database.reading() as transaction:
        assert transaction.connection().exec_driver_sql("SHOW synchronous_commit").scalar() == "on"


def test_a_backup_of_a_server_is_left_to_the_server(store, tmp_path):
    with pytest.raises(StoreUnavailable, match="back it up on its server"):
        store.backup(tmp_path / "copy.db")


def test_a_search_of_a_large_store_reads_the_index(store, session, exchange):
    exchange(store, session, "needle", "hay")
    with store._database.reading() as transaction:
        connection = transaction.connection()
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        connection.exec_driver_sql("SET LOCAL enable_indexscan = off")
        query = search._with_tsvector(["needle"]).join(SessionRow, SessionRow.id == MessageRow.session_id)
        sql = query.compile(connection.engine, compile_kwargs={"literal_binds": True})
        plan = connection.exec_driver_sql(f"EXPLAIN {sql}".replace("%", "%%")).scalars()
        assert "message_plain_words" in " ".join(plan)
