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
            "reset": (5, 0),
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


NOW_0002 = {
    "talk": "708ced616016afeaf1930f8b67e32eecc15bdb77fc485284d7d73cf968ac7531",
    "fork": "2a1f256d0e2e66c46ab529f8a14a9ef20fbe9589d2d71f0dfda65a9195842e3d",
    "old שלום": "1944b903f867abed4d855c150efe269ec5b2ce8be8db8d88a3be0c9db4f9e2a9",
    "interrupted": "49d169274f0c72a1be86ec3481020787fb457cbed298d6bee4eb28bd83db955b",
    "empty": "346435420cd074dc745f4cc893c8dc7b31ed2f0b5e3f53d631ee47027283c181",
}


@pytest.fixture
def store_0002(tmp_path):
    path = tmp_path / "sessions.db"
    path.write_bytes((DATA / "store_0002.db").read_bytes())
    with open_store(path) as store:
        yield store


def test_a_store_of_the_second_schema_keeps_its_digests_and_is_whole(store_0002):
    sessions = store_0002.sessions(archived=True)
    assert {each.name: store_0002.verify(each.id).digest for each in sessions} == NOW_0002
    assert store_0002.session("old שלום").archived
    health = store_0002.examine()
    assert (health.faults, health.sessions, health.without_checksum) == ((), 5, 24)


def test_a_generation_from_before_it_had_a_path_is_listed_with_its_checkpoints(store_0002):
    listed = {each.name: each.checkpoint for each in store_0002.sessions()}
    assert listed["talk"] == "runs/best.pt"
    talk = store_0002.session("talk")
    assert {each.checkpoint_path for each in store_0002.generations(talk.id)} == {None}


def test_words_without_blanks_from_before_their_index_are_found(store_0002):
    assert [hit.session_name for hit in store_0002.search("東京タワー")] == ["fork"]


def test_an_old_row_gets_its_checksum_when_it_is_changed(store_0002, finished):
    waiting = store_0002.pending(store_0002.session("interrupted").id)
    finished(store_0002, waiting.generation.id, "yes")
    health = store_0002.examine()
    assert (health.faults, health.without_checksum) == ((), 22)
