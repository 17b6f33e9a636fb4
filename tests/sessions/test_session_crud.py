"""Listing, finding, renaming, archiving and purging sessions."""

from __future__ import annotations

import pytest

from sessions import (
    InvalidName,
    InvalidValue,
    RecordNotFound,
    SessionArchived,
    SessionExists,
    SessionNotFound,
)
from tests.sessions.conftest import FINGERPRINT, FINGERPRINT_PARTS


@pytest.fixture
def five(store):
    return [store.create_session(f"s{number}", seed=1, system=None, settings={}) for number in range(5)]


def names(summaries):
    return [each.name for each in summaries]


def test_pages_follow_each_other_without_gap_or_repetition(store, five):
    pages = [names(store.sessions(limit=2, offset=offset)) for offset in (0, 2, 4, 6)]
    assert pages == [["s4", "s3"], ["s2", "s1"], ["s0"], []]
    assert names(store.sessions(offset=3)) == ["s1", "s0"]


def test_a_page_cannot_begin_or_end_before_the_first_session(store):
    with pytest.raises(InvalidValue, match="limit"):
        store.sessions(limit=-1)
    with pytest.raises(InvalidValue, match="offset"):
        store.sessions(offset=-1)


def test_the_list_names_the_checkpoint_that_was_used_last(store, session, exchange):
    assert store.sessions()[0].checkpoint is None
    exchange(store, session, "hi", "hello")
    assert store.sessions()[0].checkpoint == "best.pt"


def test_a_checkpoint_is_read_by_its_id(store, asked):
    checkpoint = store.checkpoint(asked(store).checkpoint_id)
    assert (checkpoint.fingerprint, checkpoint.parts) == (FINGERPRINT, FINGERPRINT_PARTS)
    assert (checkpoint.step, checkpoint.path) == (100, "best.pt")
    with pytest.raises(RecordNotFound, match="checkpoint with id 9"):
        store.checkpoint(9)


def test_only_messages_make_a_session_the_last_used_one(store, five, exchange):
    assert store.last_used().name == "s4"
    exchange(store, five[1], "hi", "hello")
    assert store.last_used().name == "s1"
    moment = store.session("s1").last_used
    store.update_settings(five[0].id, settings={"a": 1}, seed=3)
    store.rename(five[0].id, "renamed")
    store.archive(five[2].id)
    store.archive(five[2].id, archived=False)
    store.fork(five[3].id, name="fork", at=None)
    assert store.last_used().name == "fork"
    store.archive(store.session("fork").id)
    assert store.last_used().name == "s1"
    assert store.session("s1").last_used == moment
    store.archive(five[1].id)
    assert store.last_used().name == "s4"


def test_an_empty_store_has_no_last_used_session(store):
    assert store.last_used() is None


def test_names_are_completed_as_they_are_spelled_last_used_first(store, five):
    store.create_session("S%_x", seed=1, system=None, settings={})
    assert store.names("s", limit=3) == ["s4", "s3", "s2"]
    assert store.names("S%") == ["S%_x"]
    assert store.names("%") == store.names("\udc80") == store.names("\0") == []
    assert len(store.names()) == 6


def test_a_session_is_renamed_to_a_free_name_only(store, five):
    assert store.rename(five[0].id, "new").name == "new"
    with pytest.raises(SessionExists, match="'s1'"):
        store.rename(five[2].id, "s1")
    with pytest.raises(InvalidName):
        store.rename(five[2].id, "")
    with pytest.raises(SessionNotFound):
        store.session("s0")


def test_an_archived_session_leaves_the_list_and_comes_back(store, five):
    store.archive(five[0].id)
    assert names(store.sessions()) == ["s4", "s3", "s2", "s1"]
    assert "s0" in names(store.sessions(archived=True))
    assert "s0" not in store.names()
    assert store.session("s0").archived
    with pytest.raises(SessionArchived, match=r"'s0' is archived: niels-chat restore s0, or choose another"):
        store.session("s0", archived=False)
    assert store.session("s1", archived=False).name == "s1"
    with pytest.raises(SessionExists, match="already an archived session named 's0': restore it"):
        store.create_session("s0", seed=1, system=None, settings={})
    assert not store.archive(five[0].id, archived=False).archived


def test_only_an_archived_session_is_purged(store, session, exchange):
    exchange(store, session, "secret words", "hello")
    with pytest.raises(InvalidValue, match="archive it before"):
        store.purge(session.id)
    store.archive(session.id)
    store.purge(session.id)
    assert store.sessions(archived=True) == []
    assert store.search("secret") == []
    assert store.check() == []


def test_what_forks_still_use_outlives_the_session_that_it_came_from(
    store, session, exchange, asked, finished
):
    first = exchange(store, session, "hi", "hello")
    early = store.fork(session.id, name="early", at=first.id)
    exchange(store, session, "more", "yes")
    late = store.fork(session.id, name="late")
    late_head = exchange(store, late, "on", "and on")
    gone = exchange(store, session, "secret", "gone")
    store.move_head(early.id, to=first.parent_id, expected_head=first.id)
    store.archive(session.id)
    store.purge(session.id)

    assert [each.content for each in store.path(late.id)] == [
        "be brief", "hi", "hello", "more", "yes", "on", "and on",
    ]  # fmt: skip
    assert [each.session_id for each in store.export_session(early.id).messages][:3] == [early.id] * 3
    assert len(store.recorded_turns(late.id)) == 3
    assert store.move_head(early.id, to=first.id, expected_head=first.parent_id).head_id == first.id
    assert store.session("late").forked_from is None
    assert store.verify(late.id).faults == ()
    assert store.check() == []
    with pytest.raises(RecordNotFound):
        store.move_head(late.id, to=gone.id, expected_head=late_head.id)
    assert store.session("late").head_id == late_head.id
