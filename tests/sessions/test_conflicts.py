"""Two programs on one session: the second is told, and turns never interleave."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing

import pytest
from sqlalchemy import event

from sessions import (
    GenerationFinished,
    HeadMoved,
    ReplyPending,
    StoreLocked,
    mutations,
    open_store,
    sqlite_connection,
)


def interleaved(path) -> bool:
    """Tell whether the roles after the system prompt do not alternate, or a reply answers another message."""
    turns = path[1:]
    pairs = list(zip(turns[::2], turns[1::2], strict=False))
    return len(turns) % 2 == 1 or any(
        (user.role, reply.role) != ("user", "assistant") or reply.content != f"to {user.content}"
        for user, reply in pairs
    )


def test_a_turn_on_an_old_head_is_refused_and_stores_nothing(store, place, session, asked, exchange):
    with open_store(place) as other:
        reply = exchange(other, session, "from there", "answered")
        with pytest.raises(HeadMoved, match=r"'talk' was changed by another program.*'answered'") as caught:
            store.begin_turn(
                session.id, content="from here", expected_head=session.head_id, generation=asked(store)
            )
    assert (caught.value.expected, caught.value.found) == (session.head_id, reply.id)
    assert [message.content for message in store.path(session.id)][1:] == ["from there", "answered"]
    assert len(store.generations(session.id)) == 1


def test_every_change_of_the_head_checks_it_first(store, session, exchange):
    exchange(store, session, "hi", "hello")
    with pytest.raises(HeadMoved):
        store.set_system(session.id, "x", expected_head=session.head_id)
    with pytest.raises(HeadMoved):
        store.reset(session.id, system=None, expected_head=None)


def test_a_head_that_was_reset_away_is_named_so(store, session):
    store.reset(session.id, system=None, expected_head=session.head_id)
    with pytest.raises(HeadMoved, match=r"found none \(it was reset\)"):
        store.reset(session.id, system=None, expected_head=session.head_id)


def test_a_session_that_waits_for_a_reply_takes_no_other_turn(store, session, asked):
    turn = store.begin_turn(session.id, content="hi", expected_head=session.head_id, generation=asked(store))
    with pytest.raises(ReplyPending, match="finish it or give it up first") as caught:
        store.begin_turn(session.id, content="more", expected_head=turn.user.id, generation=asked(store))
    assert caught.value.generation_id == turn.generation.id
    with pytest.raises(ReplyPending):
        store.reset(session.id, system=None, expected_head=turn.user.id)
    with pytest.raises(ReplyPending):
        store.set_system(session.id, "x", expected_head=turn.user.id)


def test_a_second_program_is_told_that_a_reply_is_being_made(store, place, session, asked, finished):
    with open_store(place) as other:
        turn = store.begin_turn(
            session.id, content="hi", expected_head=session.head_id, generation=asked(store)
        )
        with pytest.raises(ReplyPending, match="another program is generating it"):
            other.begin_turn(session.id, content="me", expected_head=turn.user.id, generation=asked(other))
        with pytest.raises(HeadMoved):
            other.begin_turn(session.id, content="me", expected_head=session.head_id, generation=asked(other))
        reply = finished(store, turn.generation.id, "hello")
        assert other.path(session.id)[-1] == reply


def test_a_retry_of_a_message_that_the_session_has_left_is_refused(store, session, asked, exchange):
    first = exchange(store, session, "hi", "hello")
    store.reset(session.id, system=None, expected_head=first.id)
    with pytest.raises(HeadMoved):
        store.begin_retry(session.id, user_message_id=first.parent_id, generation=asked(store))


def test_a_retry_of_a_message_of_another_branch_is_refused(store, session, asked, exchange):
    first = exchange(store, session, "hi", "hello")
    store.move_head(session.id, to=store.path(session.id)[0].id, expected_head=first.id)
    second = exchange(store, session, "good day", "hello")
    with pytest.raises(HeadMoved):
        store.begin_retry(session.id, user_message_id=first.parent_id, generation=asked(store))
    retry = store.begin_retry(session.id, user_message_id=second.parent_id, generation=asked(store))
    assert retry.user.content == "good day"


def test_a_retry_on_an_old_head_is_refused(store, session, asked, exchange):
    first = exchange(store, session, "hi", "hello")
    exchange(store, session, "more", "yes")
    with pytest.raises(HeadMoved):
        store.begin_retry(
            session.id, user_message_id=first.parent_id, generation=asked(store), expected_head=first.id
        )


def test_a_retry_while_another_message_waits_for_its_reply_is_refused(store, session, asked, exchange):
    first = exchange(store, session, "hi", "hello")
    store.begin_turn(session.id, content="more", expected_head=first.id, generation=asked(store))
    with pytest.raises(ReplyPending):
        store.begin_retry(session.id, user_message_id=first.parent_id, generation=asked(store))


def test_an_outcome_is_recorded_once(store, session, asked, finished):
    turn = store.begin_turn(session.id, content="hi", expected_head=session.head_id, generation=asked(store))
    finished(store, turn.generation.id, "hello")
    with pytest.raises(GenerationFinished, match="already 'complete'"):
        finished(store, turn.generation.id, "hello twice")
    with pytest.raises(GenerationFinished):
        store.fail_generation(turn.generation.id, error="late")
    assert [message.content for message in store.path(session.id)][1:] == ["hi", "hello"]


def test_a_reply_that_is_sent_again_is_the_stored_one(store, session, asked, finished):
    turn = store.begin_turn(session.id, content="hi", expected_head=session.head_id, generation=asked(store))
    reply = finished(store, turn.generation.id, "hello")
    assert finished(store, turn.generation.id, "hello") == reply
    assert [message.content for message in store.path(session.id)][1:] == ["hi", "hello"]
    retry = store.begin_retry(session.id, user_message_id=turn.user.id, generation=asked(store))
    again = finished(store, retry.generation.id, "hello")
    assert finished(store, turn.generation.id, "hello") == reply
    assert store.session("talk").head_id == again.id


def test_a_failure_that_is_recorded_again_is_no_error(store, session, asked):
    turn = store.begin_turn(session.id, content="hi", expected_head=session.head_id, generation=asked(store))
    for _ in range(2):
        store.fail_generation(turn.generation.id, error="out of memory")
    with pytest.raises(GenerationFinished, match="already 'failed'"):
        store.fail_generation(turn.generation.id, error="another")
    assert len(store.generations(session.id)) == 1


def test_a_reply_that_met_a_lock_is_stored_afterwards(sqlite_place, asked, finished):
    with open_store(f"sqlite:///{sqlite_place}?timeout=0.02") as store:
        session = store.create_session("talk", seed=1, system=None, settings={})
        turn = store.begin_turn(session.id, content="hi", expected_head=None, generation=asked(store))
        with closing(sqlite3.connect(sqlite_place, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreLocked):
                finished(store, turn.generation.id, "hello")
        assert finished(store, turn.generation.id, "hello").content == "hello"


def test_a_lock_that_is_taken_is_asked_for_in_short_uneven_intervals(sqlite_place, monkeypatch):
    with open_store(sqlite_place) as store, closing(sqlite3.connect(sqlite_place)) as other:
        pauses = []

        def pause(seconds):
            pauses.append(seconds)
            if len(pauses) == 20:
                other.rollback()

        monkeypatch.setattr(sqlite_connection.time, "sleep", pause)
        other.execute("BEGIN EXCLUSIVE")
        assert store.sessions() == []  # a reader waits in the same way
        assert len(pauses) == 20
        assert max(pauses) < 0.01
        assert len(set(pauses)) > 1


def test_a_lock_is_waited_for_as_long_as_the_timeout(sqlite_place, monkeypatch):
    with (
        open_store(f"sqlite:///{sqlite_place}?timeout=0.5") as store,
        closing(sqlite3.connect(sqlite_place)) as other,
    ):
        clock = [100.0]
        monkeypatch.setattr(sqlite_connection.time, "monotonic", lambda: clock[0])
        monkeypatch.setattr(sqlite_connection.time, "sleep", lambda s: clock.append(clock.pop() + s))
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreLocked):
            store.create_session("talk", seed=1, system=None, settings={})
        assert clock[0] == pytest.approx(100.5)
        other.rollback()
        store.create_session("talk", seed=1, system=None, settings={})


def test_a_turn_updates_each_row_once(store, session, asked, finished):
    updated = []

    def note(_connection, _cursor, statement, *_rest):
        if statement.startswith("UPDATE"):
            updated.append(statement.split()[1])

    generation = asked(store)
    event.listen(store._database._engine, "before_cursor_execute", note)
    turn = store.begin_turn(session.id, content="hi", expected_head=session.head_id, generation=generation)
    assert updated == ["session"]
    finished(store, turn.generation.id, "hello")
    assert sorted(updated[1:]) == ["generation", "session"]


def test_a_reply_that_another_attempt_replaced_is_refused(store, session, asked, finished):
    turn = store.begin_turn(session.id, content="hi", expected_head=session.head_id, generation=asked(store))
    store.begin_retry(session.id, user_message_id=turn.user.id, generation=asked(store))
    with pytest.raises(GenerationFinished, match="already 'failed'"):
        finished(store, turn.generation.id, "late")


def test_two_threads_with_a_store_each_never_interleave_turns(place, store, session, asked, finished):
    turns_each = 8
    started = threading.Barrier(2, timeout=20)
    problems: list[BaseException] = []

    def talk(name: str) -> None:
        try:
            with open_store(place) as own:
                generation = asked(own)
                started.wait()
                said = 0
                while said < turns_each:
                    head = own.session("talk").head_id
                    content = f"{name} {said}"
                    try:
                        turn = own.begin_turn(
                            session.id, content=content, expected_head=head, generation=generation
                        )
                    except (HeadMoved, ReplyPending):
                        continue
                    finished(own, turn.generation.id, f"to {content}")
                    said += 1
        except BaseException as problem:  # noqa: BLE001 - shown by the test itself
            problems.append(problem)

    threads = [threading.Thread(target=talk, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=40)
    assert problems == []
    path = store.path(session.id)
    assert len(path) == 1 + 2 * 2 * turns_each
    assert not interleaved(path)


def test_without_the_check_of_the_head_turns_do_interleave(store, session):
    users = []
    for name in ("one", "two"):
        with store._database.writing() as transaction:
            row = mutations.locked_session(transaction, session.id)
            users.append(
                mutations.append(transaction, row, parent_id=row.head_id, role="user", content=name).id
            )
    for user, name in zip(users, ("one", "two"), strict=True):
        with store._database.writing() as transaction:
            row = mutations.locked_session(transaction, session.id)
            mutations.append(transaction, row, parent_id=user, role="assistant", content=f"to {name}")
    assert interleaved(store.path(session.id))
