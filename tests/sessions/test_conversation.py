"""What a conversation looks like after each thing that can happen in it."""

from __future__ import annotations

from datetime import UTC
from pathlib import Path

import pytest

from sessions import InvalidValue, RecordNotFound, SessionExists, SessionNotFound, StoreClosed, open_store
from tests.sessions.conftest import FINGERPRINT


def said(store, session):
    return [(message.role, message.content) for message in store.path(session.id)]


def test_a_new_session_has_its_system_prompt_as_its_root(store, session):
    (root,) = store.path(session.id)
    assert (root.role, root.content, root.position, root.parent_id) == ("system", "be brief", 0, None)
    assert session.head_id == root.id


def test_a_session_without_a_system_prompt_begins_empty(store):
    session = store.create_session("bare", seed=-(2**63), system=None, settings={})
    assert session.head_id is None
    assert store.path(session.id) == []


def test_a_name_is_taken_once(store, session):
    with pytest.raises(SessionExists, match="'talk'"):
        store.create_session("talk", seed=1, system=None, settings={})
    assert len(store.sessions()) == 1


def test_a_name_that_is_not_there_brings_up_the_nearest_ones(store, session):
    with pytest.raises(SessionNotFound, match="did you mean 'talk'") as caught:
        store.session("tallk")
    assert caught.value.nearest == ("talk",)


def test_a_turn_is_a_message_then_a_reply_with_its_generation(store, session, asked, finished):
    turn = store.begin_turn(session.id, content="hi", expected_head=session.head_id, generation=asked(store))
    assert turn.session.head_id == turn.user.id
    assert turn.generation.status == "pending"

    reply = finished(store, turn.generation.id, "hello")

    assert said(store, session) == [("system", "be brief"), ("user", "hi"), ("assistant", "hello")]
    assert reply.token_ids == tuple(b"hello")
    assert store.session("talk").head_id == reply.id
    (generation,) = store.generations(session.id)
    assert (generation.status, generation.finish_reason, generation.reply_id) == (
        "complete",
        "stop",
        reply.id,
    )
    assert generation.sampling == {"temperature": 0.9, "top_k": 50}
    assert (generation.receipt, generation.timings) == ({"reply_tokens": 5}, {"total_s": 0.5})
    assert generation.seed == 2**63 - 1
    assert generation.finished is not None
    assert generation.finished.tzinfo is UTC


def test_a_session_resumes_in_a_store_opened_later(store, place, session, exchange):
    exchange(store, session, "hi", "hello")
    before = (store.session("talk"), store.path(session.id), store.generations(session.id))
    store.close()
    with open_store(place) as later:
        assert (later.session("talk"), later.path(session.id), later.generations(session.id)) == before


def test_a_store_is_closed_at_the_end_of_its_block(place):
    with open_store(place) as opened:
        assert opened.sessions() == []
    with pytest.raises(StoreClosed, match="open it again"):
        opened.sessions()


def test_records_stay_readable_after_the_store_is_closed(store, session):
    messages = store.path(session.id)
    store.close()
    assert messages[0].content == "be brief"


def test_a_cancelled_reply_keeps_what_was_said_so_far(store, session, asked):
    turn = store.begin_turn(session.id, content="hi", expected_head=session.head_id, generation=asked(store))
    reply = store.finish_reply(
        turn.generation.id,
        content="",
        token_ids=[],
        status="cancelled",
        finish_reason="cancelled",
        receipt={},
        timings={},
    )
    assert (reply.status, reply.token_ids) == ("cancelled", ())
    assert store.session("talk").head_id == reply.id


def test_a_failed_generation_leaves_the_user_message_and_a_free_session(store, session, asked, exchange):
    turn = store.begin_turn(session.id, content="hi", expected_head=session.head_id, generation=asked(store))
    store.fail_generation(turn.generation.id, error="out of memory \udc80\0")

    assert store.pending(session.id) is None
    assert store.session("talk").head_id == turn.user.id
    assert store.generations(session.id)[0].error == "out of memory \\udc80\0"
    exchange(store, session, "again", "hello")
    assert [role for role, _ in said(store, session)] == ["system", "user", "user", "assistant"]


def test_an_interrupted_generation_is_found_again_and_can_be_finished(store, place, session, asked, finished):
    turn = store.begin_turn(session.id, content="hi", expected_head=session.head_id, generation=asked(store))
    store.close()
    with open_store(place) as later:
        found = later.pending(session.id)
        assert found is not None
        assert (found.user, found.generation) == (turn.user, turn.generation)
        finished(later, found.generation.id, "hello")
        assert later.pending(session.id) is None


def test_a_retry_adds_a_sibling_and_keeps_the_old_reply(store, session, asked, exchange, finished):
    first = exchange(store, session, "hi", "hello")
    turn = store.begin_retry(session.id, user_message_id=first.parent_id, generation=asked(store))
    assert store.session("talk").head_id == first.id

    second = finished(store, turn.generation.id, "good day")

    assert said(store, session)[-1] == ("assistant", "good day")
    assert second.parent_id == first.parent_id
    assert [each.reply_id for each in store.generations(session.id)] == [first.id, second.id]


def test_a_retry_gives_up_the_attempt_that_was_interrupted(store, session, asked):
    turn = store.begin_turn(session.id, content="hi", expected_head=session.head_id, generation=asked(store))
    retry = store.begin_retry(session.id, user_message_id=turn.user.id, generation=asked(store))
    assert [each.status for each in store.generations(session.id)] == ["failed", "pending"]
    assert store.pending(session.id) == retry


def test_the_system_prompt_that_is_set_later_lies_at_the_end_of_the_path(store, session, exchange):
    reply = exchange(store, session, "hi", "hello")
    changed = store.set_system(session.id, "be long", expected_head=reply.id)
    assert said(store, session)[-1] == ("system", "be long")
    assert changed.head_id != reply.id


def test_a_reset_begins_a_new_tree_and_keeps_the_old_one(store, session, exchange):
    reply = exchange(store, session, "hi", "hello")
    store.reset(session.id, system="start over", expected_head=reply.id)
    assert said(store, session) == [("system", "start over")]
    assert store.sessions()[0].messages == 4

    emptied = store.reset(session.id, system=None, expected_head=store.session("talk").head_id)
    assert emptied.head_id is None


def test_settings_are_changed_one_by_one(store, session):
    changed = store.update_settings(session.id, settings={"top_k": None}, seed=8)
    assert changed.settings == {"temperature": 0.9, "top_k": None}
    assert changed.seed == 8
    assert store.session("talk").settings == changed.settings
    assert store.update_settings(session.id).seed == 8


def test_a_checkpoint_is_remembered_once_under_its_last_path(store, asked):
    first = asked(store).checkpoint_id
    again = store.remember_checkpoint(
        fingerprint=FINGERPRINT, parts={}, config={}, step=None, path="moved\udc80"
    )
    other = store.remember_checkpoint(fingerprint="e" * 64, parts={}, config={}, step=None, path="other.pt")
    assert again == first
    assert other != first
    found = store.checkpoint(first)
    assert (found.parts, found.config, found.step, found.path) == ({}, {}, None, r"moved\udc80")


def test_a_generation_needs_a_checkpoint_that_the_store_knows(store, session, asked):
    stranger = asked(store).__class__(**{**vars(asked(store)), "checkpoint_id": 99})
    with pytest.raises(RecordNotFound, match="checkpoint with id 99"):
        store.begin_turn(session.id, content="hi", expected_head=session.head_id, generation=stranger)
    assert [role for role, _ in said(store, session)] == ["system"]


def test_the_list_shows_what_was_used_last_first_with_counts_and_first_words(store, session, exchange):
    other = store.create_session("other", seed=1, system=None, settings={})
    exchange(store, session, "tell me\n\nabout " + "attention " * 30, "no")
    exchange(store, session, "why", "because")
    first, second = store.sessions()
    assert (first.name, first.messages, first.turns) == ("talk", 5, 2)
    assert first.first_words.startswith("tell me about attention")
    assert first.first_words.endswith("…")
    assert len(first.first_words) <= 80
    assert (second.name, second.messages, second.turns, second.first_words) == (other.name, 0, 0, "")


def test_unknown_ids_are_named_in_the_error(store):
    with pytest.raises(RecordNotFound, match="session with id 5"):
        store.path(5)
    with pytest.raises(RecordNotFound, match="session with id 5"):
        store.update_settings(5, seed=1)
    with pytest.raises(RecordNotFound, match="generation with id 5"):
        store.fail_generation(5, error="x")
    with pytest.raises(InvalidValue, match="generation id"):
        store.fail_generation(2**63, error="x")
    with pytest.raises(InvalidValue, match="session id"):
        store.path(2**63)


def test_the_default_store_lies_in_the_users_data_folder(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    open_store().close()
    assert (tmp_path / "niels-gpt" / "sessions.db").is_file()


def test_a_session_begins_with_a_whole_conversation_and_its_pending_reply_or_not_at_all(store, asked):
    messages = [("system", "be brief"), ("user", "a"), ("assistant", "b"), ("user", "c")]
    turn = store.begin_session(
        "whole", seed=3, settings={}, messages=messages, generation=asked(store), archived=True
    )
    assert said(store, turn.session) == messages
    assert store.sessions() == []
    assert store.pending(turn.session.id) == store.turn(turn.generation.id) == turn
    assert store.session_by_id(turn.session.id) == turn.session
    for wrong in ([], [("assistant", "b")], [("tool", "a"), ("user", "b")]):
        with pytest.raises(InvalidValue):
            store.begin_session("half", seed=3, settings={}, messages=wrong, generation=asked(store))
    with pytest.raises(SessionNotFound):
        store.session("half")
    with pytest.raises(RecordNotFound):
        store.turn(10**6)
