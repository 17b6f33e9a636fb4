"""Forks, alternatives and moved heads: nothing is copied, and nothing is lost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sessions import HeadMoved, RecordNotFound, ReplyPending, SessionExists


def said(store, session):
    return [message.content for message in store.path(session.id)]


def test_a_fork_shares_the_messages_and_goes_its_own_way(store, session, exchange):
    exchange(store, session, "hi", "hello")
    fork = store.fork(session.id, name="other")
    assert (fork.forked_from, fork.seed, fork.settings) == (session.id, session.seed, session.settings)
    assert [each.id for each in store.path(fork.id)] == [each.id for each in store.path(session.id)]

    exchange(store, fork, "and then", "that")
    exchange(store, session, "but", "no")
    assert said(store, fork) == ["be brief", "hi", "hello", "and then", "that"]
    assert said(store, session) == ["be brief", "hi", "hello", "but", "no"]


def test_a_fork_can_begin_at_any_message_of_the_tree_and_have_another_seed(store, session, exchange):
    first = exchange(store, session, "hi", "hello")
    exchange(store, session, "more", "yes")
    fork = store.fork(session.id, name="earlier", at=first.id, seed=99)
    assert (fork.head_id, fork.forked_at, fork.seed) == (first.id, first.id, 99)
    assert said(store, fork) == ["be brief", "hi", "hello"]


def test_a_fork_of_an_empty_session_is_empty(store):
    bare = store.create_session("bare", seed=1, system=None, settings={})
    assert store.fork(bare.id, name="too").head_id is None


def test_a_fork_needs_a_free_name_and_a_message_of_the_session(store, session, exchange):
    stranger = store.create_session("stranger", seed=1, system="x", settings={})
    with pytest.raises(SessionExists):
        store.fork(session.id, name="stranger")
    with pytest.raises(RecordNotFound, match="message of session 'talk' with id"):
        store.fork(session.id, name="new", at=stranger.head_id)
    with pytest.raises(RecordNotFound, match="message with id 99"):
        store.fork(session.id, name="new", at=99)
    assert len(store.sessions()) == 2


def test_the_list_counts_what_a_fork_shares(store, session, exchange):
    exchange(store, session, "first words", "hello")
    fork = store.fork(session.id, name="fork")
    exchange(store, fork, "more", "yes")
    (summary,) = (each for each in store.sessions() if each.name == "fork")
    assert (summary.messages, summary.turns, summary.first_words) == (5, 2, "first words")


def test_the_list_counts_the_turns_of_the_path_and_all_messages(store, session, exchange):
    system = session.head_id
    reply = exchange(store, session, "one", "yes")
    store.move_head(session.id, to=system, expected_head=store.session("talk").head_id)
    (summary,) = store.sessions()
    assert (summary.messages, summary.turns) == (3, 0)
    store.move_head(session.id, to=reply.parent_id, expected_head=system)
    (summary,) = store.sessions()
    assert (summary.messages, summary.turns) == (3, 1)


def test_a_head_moves_back_and_forth_within_its_tree(store, session, exchange):
    first = exchange(store, session, "hi", "hello")
    second = exchange(store, session, "more", "yes")
    assert store.move_head(session.id, to=first.id, expected_head=second.id).head_id == first.id
    assert said(store, session) == ["be brief", "hi", "hello"]
    assert store.move_head(session.id, to=second.id, expected_head=first.id).head_id == second.id
    assert store.move_head(session.id, to=None, expected_head=second.id).head_id is None
    assert said(store, session) == []


def test_the_head_of_a_fork_moves_over_what_it_shares_and_back(store, session, exchange):
    first = exchange(store, session, "hi", "hello")
    fork = store.fork(session.id, name="fork")
    root = store.path(fork.id)[0]
    store.move_head(fork.id, to=root.id, expected_head=first.id)
    assert store.move_head(fork.id, to=first.id, expected_head=root.id).head_id == first.id


def test_a_head_never_moves_out_of_its_tree(store, session, exchange):
    fork = store.fork(session.id, name="fork")
    elsewhere = exchange(store, session, "hi", "hello")
    with pytest.raises(RecordNotFound, match="session 'fork'"):
        store.move_head(fork.id, to=elsewhere.id, expected_head=fork.head_id)


def test_a_head_that_is_not_as_expected_or_waits_for_a_reply_stays(store, session, asked):
    with pytest.raises(HeadMoved):
        store.move_head(session.id, to=None, expected_head=None)
    turn = store.begin_turn(session.id, content="hi", expected_head=session.head_id, generation=asked(store))
    with pytest.raises(ReplyPending):
        store.move_head(session.id, to=None, expected_head=turn.user.id)


def test_an_earlier_message_is_answered_again_and_the_head_moves_there(
    store, session, exchange, asked, finished
):
    first = exchange(store, session, "hi", "hello")
    last = exchange(store, session, "more", "yes")
    turn = store.begin_retry(session.id, user_message_id=first.parent_id, generation=asked(store))
    assert turn.session.head_id == last.id
    again = finished(store, turn.generation.id, "good day")
    assert said(store, session) == ["be brief", "hi", "good day"]
    assert store.move_head(session.id, to=last.id, expected_head=again.id).head_id == last.id


def test_variants_are_the_replies_to_a_message_and_to_its_edited_versions(store, session, exchange, asked):
    first = exchange(store, session, "hi", "hello")
    root = store.path(session.id)[0]
    store.move_head(session.id, to=root.id, expected_head=first.id)
    second = exchange(store, session, "good day", "hello too")
    exchange(store, session, "more", "yes")
    assert [each.reply.id for each in store.variants(session.id, first.parent_id)] == [first.id, second.id]
    assert store.variants(session.id, second.parent_id) == store.variants(session.id, first.parent_id)
    bare = [store.create_session(name, seed=1, system=None, settings={}) for name in ("bare", "other")]
    alone = [exchange(store, each, "hi", "hello") for each in bare]
    assert [each.reply.id for each in store.variants(bare[0].id, alone[0].parent_id)] == [alone[0].id]
    with pytest.raises(RecordNotFound):
        store.variants(session.id, 99)


def test_the_next_attempt_counts_failed_ones_and_those_that_a_fork_shares(
    store, session, exchange, asked, finished
):
    first = exchange(store, session, "hi", "hello")
    assert store.next_attempt(session.id, first.parent_id) == 1
    turn = store.begin_retry(
        session.id, user_message_id=first.parent_id, generation=replace(asked(store), attempt=4)
    )
    store.fail_generation(turn.generation.id, error="x")
    assert store.next_attempt(session.id, first.parent_id) == 5
    fork = store.fork(session.id, name="fork")
    assert store.next_attempt(fork.id, first.parent_id) == 1
    exchange(store, session, "more", "yes")
    question = store.path(session.id)[-2]
    assert store.next_attempt(fork.id, question.id) == 0


def test_the_last_turn_is_the_last_one_of_the_path(store, session, exchange):
    assert store.last_turn(session.id) is None
    first = exchange(store, session, "hi", "hello")
    last = exchange(store, session, "more", "yes")
    assert store.last_turn(session.id).reply.id == last.id
    store.move_head(session.id, to=first.id, expected_head=last.id)
    assert store.last_turn(session.id).reply.id == first.id


def test_recorded_turns_follow_the_path_or_the_whole_tree(store, session, exchange, asked, finished):
    first = exchange(store, session, "hi", "hello")
    exchange(store, session, "more", "yes")
    turn = store.begin_retry(session.id, user_message_id=first.parent_id, generation=asked(store))
    again = finished(store, turn.generation.id, "good day")
    (recorded,) = store.recorded_turns(session.id)
    assert (recorded.user.content, recorded.reply.id, recorded.generation.reply_id) == (
        "hi",
        again.id,
        again.id,
    )
    everything = store.recorded_turns(session.id, every_branch=True)
    assert [each.reply.content for each in everything] == ["hello", "yes", "good day"]
    fork = store.fork(session.id, name="fork")
    assert [each.reply.id for each in store.recorded_turns(fork.id)] == [again.id]


def test_an_edit_stands_next_to_the_message_or_changes_nothing(store, session, exchange, asked):
    exchange(store, session, "hi", "hello")
    exchange(store, session, "more", "yes")
    [_, first, *_, second, _] = store.path(session.id)
    head = store.session(session.name).head_id
    values = {"content": "other", "expected_head": head, "generation": asked(store)}
    unknown = replace(asked(store), checkpoint_id=999)
    for refused, error in [
        ({"user_message_id": first.id, "generation": unknown}, RecordNotFound),
        ({"user_message_id": head}, RecordNotFound),
        ({"user_message_id": first.id, "expected_head": second.id}, HeadMoved),
    ]:
        with pytest.raises(error):
            store.begin_edit(session.id, **values | refused)
        assert store.session(session.name).head_id == head
    turn = store.begin_edit(session.id, user_message_id=first.id, **values)
    assert (turn.user.parent_id, said(store, session)) == (first.parent_id, ["be brief", "other"])
    assert said(store, store.fork(session.id, name="old", at=head))[-1] == "yes"
