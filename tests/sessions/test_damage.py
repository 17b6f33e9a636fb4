"""Damaged cells: every reader says so in one error, and the check finds each of them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime

import pytest

from sessions import StoreDamaged, open_store
from sessions.fields import checksum
from tests.sessions import damage_campaign


@pytest.fixture
def place(sqlite_place):
    return sqlite_place


def change(store, statement):
    with store._database.writing() as transaction:
        transaction.connection().exec_driver_sql(statement)


def test_no_damaged_cell_leads_to_more_than_an_error_of_the_store(tmp_path, capsys):
    status = damage_campaign.main(["--every", "149", "--folder", str(tmp_path)])
    assert (status, capsys.readouterr().err) == (0, "")


SHOWN = [
    "UPDATE session SET name = 'tall'",
    "UPDATE session SET settings = '{\"temperature\": 0.8}'",
    "UPDATE session SET last_used = last_used + 1",
    "UPDATE session SET archived = 1",
    "UPDATE message SET created = created - 1 WHERE id = 2",
    "UPDATE generation SET timings = '{\"total_s\": 0.4}'",
    "UPDATE generation SET environment = '{}'",
    "UPDATE generation SET checkpoint_path = 'worst.pt'",
    "UPDATE checkpoint SET path = 'worst.pt'",
    "UPDATE checkpoint SET parts = '{}'",
]


@pytest.mark.parametrize("statement", SHOWN)
def test_a_change_that_no_digest_covers_is_found_by_its_checksum(store, session, exchange, statement):
    exchange(store, session, "hi", "hello")
    change(store, statement)
    (line,) = store.check()
    assert "its checksum is the checksum of other values" in line
    (fault,) = store.verify(session.id).faults
    assert fault.where in line
    table = statement.split()[1]
    assert fault.where.startswith(table)
    assert (fault.message_id is not None) == (table == "message")
    assert (fault.generation_id is not None) == (table == "generation")


@pytest.mark.parametrize("ids", ["[true]", "[1.5]", '["1"]', "{}", "[-1]", "[9223372036854775808]"])
def test_token_ids_that_are_none_are_named(store, session, exchange, ids):
    exchange(store, session, "hi", "hello")
    change(store, f"UPDATE message SET token_ids = '{ids}' WHERE role = 'assistant'")  # noqa: S608
    with pytest.raises(StoreDamaged, match=r"message 3 in the store is damaged \(the token ids are "):
        store.path(session.id)


@pytest.mark.parametrize(
    ("statement", "lacking"),
    [
        ("UPDATE generation SET reply_id = 999", "generation 1 .* its question or its reply"),
        ("UPDATE generation SET user_message_id = 999", "generation 1 .* its question or its reply"),
        ("UPDATE generation SET checkpoint_id = 999", "generation 1 .* its checkpoint"),
        ("UPDATE message SET parent_id = 999 WHERE id = 2", "message 2 .* its parent, message 999,"),
        ("UPDATE session SET head_id = 999", "session 1 .* its head, message 999,"),
        ("UPDATE session SET forked_at = 999", "session 1 .* its fork, message 999,"),
    ],
)
def test_a_session_that_refers_to_what_is_not_there_is_not_exported(
    store, session, exchange, statement, lacking
):
    exchange(store, session, "hi", "hello")
    with closing(sqlite3.connect(store._database._file)) as database, database:  # which checks no references
        database.execute(statement)
    with pytest.raises(StoreDamaged, match=lacking.replace(" .* ", r" in the store is damaged \(")):
        store.export_session(session.id)


def test_a_damaged_session_is_not_built_upon(store, session):
    change(store, "UPDATE session SET seed = 'seven'")
    with pytest.raises(StoreDamaged, match="session 1 in the store"):
        store.set_system(session.id, "be long", expected_head=session.head_id)


def test_damage_is_found_after_the_row_was_changed_again(store, session, exchange):
    change(store, "UPDATE session SET name = 'tall'")
    store.update_settings(session.id, settings={"temperature": 0.5})
    exchange(store, store.session("tall"), "hi", "hello")
    assert len(store.check()) == 1


def test_a_damaged_row_is_named_with_its_field_and_value(store, session):
    change(store, "UPDATE session SET seed = 'seven'")
    with pytest.raises(
        StoreDamaged, match=r"session 1 in the store is damaged \(the seed is 'seven': expected"
    ):
        store.sessions()
    with pytest.raises(StoreDamaged, match="session 1 in the store"):
        store.path(session.id)
    (line,) = store.check()
    assert line.startswith("session 1 in the store is damaged (the seed is 'seven': expected a whole number)")


def test_every_damaged_row_is_reported(store, session, exchange):
    exchange(store, session, "hi", "hello")
    change(store, "UPDATE message SET created = 'x'")
    change(store, "UPDATE session SET created = 9000000000000000000")
    assert [line.partition(" in the store")[0] for line in store.check()] == [
        "session 1", "message 1", "message 2", "message 3",
    ]  # fmt: skip


def test_a_session_whose_messages_form_a_cycle_is_not_exported(store, session, exchange):
    reply = exchange(store, session, "hi", "hello")
    change(store, f"UPDATE message SET parent_id = {reply.id} WHERE id = 2")  # noqa: S608
    with pytest.raises(StoreDamaged, match=r"message 2 in the store is damaged \(its parent, message 3"):
        store.export_session(session.id)
    assert store.verify(session.id).faults


def test_rows_without_a_checksum_are_counted_and_not_faults(store, session):
    change(store, "UPDATE session SET checksum = NULL, name = 'other'")
    health = store.examine()
    assert (health.faults, health.sessions, health.without_checksum) == ((), 1, 1)


def test_a_new_row_of_every_table_has_a_checksum(store, session, exchange, tmp_path):
    exchange(store, session, "hi", "hello")
    store.import_session(store.export_session(session.id), name="imported")
    store.fork(session.id, name="fork")
    store.archive(session.id)
    store.purge(session.id)
    assert store.examine().without_checksum == 0
    assert store.check() == []
    store.backup(tmp_path / "copy.db")
    with open_store(tmp_path / "copy.db") as copy:
        assert copy.check() == []


def test_the_checksum_of_a_row_never_changes_its_form():
    # Every stored row has one: another encoding would call all of them damaged.
    row = {
        "id": 7,
        "checksum": "left out",
        "name": "trip – 旅",
        "created": datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
        "settings": {"top_k": None, "temperature": 0.9},
        "archived": False,
    }
    assert checksum(row) == checksum({**row, "id": 8, "checksum": None}) == "b6e3d04a8c304e66"
    assert checksum({**row, "archived": True}) != checksum(row)
