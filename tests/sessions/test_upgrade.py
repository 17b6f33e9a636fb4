"""A store that an earlier version wrote, kept in ``data`` as it was left: the upgrade loses nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from sessions import open_store
from sessions.migrations import SHIPPED

DATA = Path(__file__).with_name("data")


@pytest.fixture
def old_store_path(tmp_path):
    path = tmp_path / "sessions.db"
    path.write_bytes((DATA / "store_0001.db").read_bytes())
    return path


def test_there_is_a_stored_file_of_every_earlier_version():
    stored = {path.stem.removeprefix("store_") for path in DATA.glob("store_*.db")}
    assert stored == set(SHIPPED.revisions[:-1])


def test_everything_in_a_store_of_the_first_schema_is_there_after_the_upgrade(old_store_path):
    with open_store(old_store_path) as store:
        listed = {each.name: (each.messages, each.turns) for each in store.sessions(archived=True)}
        assert listed == {
            "talk": (6, 2),
            "odd שלום": (3, 2),
            "reset": (5, 1),
            "interrupted": (2, 1),
            "empty": (0, 0),
        }
        talk = store.session("talk")
        assert [message.content for message in store.path(talk.id)] == [
            "be brief",
            "what is attention?",
            "a weighted look at what came before",
            "and why is it quadratic?",
            "because of the pairs",
        ]
        odd = store.path(store.session("odd שלום").id)
        assert [message.content for message in odd] == [
            "NUL \0 and \x1a stay", "\0\x1a0 as they were é", "this failed",
        ]  # fmt: skip
        assert store.check() == []


def test_replies_from_before_generations_had_a_digest_have_none_and_verify(old_store_path):
    with open_store(old_store_path) as store:
        talk = store.session("talk")
        assert {(each.digest, each.forced_ids) for each in store.generations(talk.id)} == {(None, ())}
        assert store.verify(talk.id).faults == ()


def test_what_was_said_before_there_was_a_search_is_found(old_store_path):
    with open_store(old_store_path) as store:
        assert [hit.session_name for hit in store.search("weighted look")] == ["talk"]


def test_a_reply_that_was_interrupted_before_the_upgrade_is_finished_after_it(old_store_path, finished):
    with open_store(old_store_path) as store:
        session = store.session("interrupted")
        turn = store.pending(session.id)
        assert (turn.user.content, turn.generation.seed) == ("are you there?", 11)
        reply = finished(store, turn.generation.id, "yes")
        assert store.path(session.id)[-1] == reply
        assert store.generations(session.id)[0].digest is not None


def test_the_file_as_it_was_is_kept_beside_the_upgraded_one(old_store_path):
    before = old_store_path.read_bytes()
    open_store(old_store_path).close()
    (backup,) = old_store_path.parent.glob("sessions.db.schema-0001-*.backup")
    assert backup.read_bytes()[100:] == before[100:]  # the first 100 bytes count changes and versions
