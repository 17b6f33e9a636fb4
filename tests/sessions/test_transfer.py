"""Export, import and verify whole sessions; an inconsistent archive is refused whole."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from sessions import InvalidName, InvalidValue, NewGeneration, SessionExists, open_store
from sessions.digest import generation_digest, message_digest, session_digest


@pytest.fixture
def told(store, session, exchange, asked, finished):
    """A session with two turns, a second attempt at the first, and a failed one."""
    first = exchange(store, session, "hi", "hello")
    exchange(store, session, "more \0", "yes")
    retry = store.begin_retry(session.id, user_message_id=first.parent_id, generation=asked(store))
    store.fail_generation(retry.generation.id, error="out of memory")
    retry = store.begin_retry(session.id, user_message_id=first.parent_id, generation=asked(store))
    finished(store, retry.generation.id, "good day")
    return store.session("talk")


@pytest.fixture
def elsewhere(tmp_path, fresh_file):
    (tmp_path / "elsewhere.db").write_bytes(fresh_file)
    with open_store(tmp_path / "elsewhere.db") as other:
        # So that no id means the same in both.
        other.create_session("first here", seed=1, system="x", settings={})
        yield other


def tree(store, session):
    """What a session holds, without what may differ between stores: ids and times."""
    archive = store.export_session(session.id)
    place = {message.id: number for number, message in enumerate(archive.messages)}
    return (
        [(m.role, m.content, m.token_ids, m.digest, place.get(m.parent_id)) for m in archive.messages],
        [
            (g.seed, g.status, g.digest, g.error, place[g.user_message_id], place.get(g.reply_id))
            for g in archive.generations
        ],
        [(c.fingerprint, c.parts, c.path) for c in archive.checkpoints],
        archive.digest,
        place.get(archive.session.head_id),
    )


def test_a_session_taken_to_another_store_is_the_same_there(store, told, elsewhere):
    imported = elsewhere.import_session(store.export_session(told.id))
    assert imported.name == "talk"
    assert imported.settings == told.settings
    assert imported.created == told.created
    assert tree(elsewhere, imported) == tree(store, told)
    assert elsewhere.verify(imported.id).digest == store.verify(told.id).digest
    assert elsewhere.check() == []


def test_an_archive_of_a_fork_has_what_it_shares_and_no_more(store, told, elsewhere, exchange):
    shared = store.path(told.id)[:2]
    fork = store.fork(told.id, name="fork", at=shared[-1].id)
    exchange(store, fork, "aside", "so")
    imported = elsewhere.import_session(store.export_session(fork.id), name="mine")
    assert [message.content for message in elsewhere.path(imported.id)] == ["be brief", "hi", "aside", "so"]
    assert len(elsewhere.export_session(imported.id).messages) == 4
    assert imported.forked_from is None
    assert tree(elsewhere, imported) == tree(store, fork)


def test_a_reply_that_is_waited_for_travels_and_is_finished_there(store, session, asked, elsewhere, finished):
    store.begin_turn(session.id, content="hi", expected_head=session.head_id, generation=asked(store))
    imported = elsewhere.import_session(store.export_session(session.id))
    waiting = elsewhere.pending(imported.id)
    finished(elsewhere, waiting.generation.id, "hello")
    assert [message.content for message in elsewhere.path(imported.id)] == ["be brief", "hi", "hello"]


def test_a_session_that_is_whole_verifies(store, told):
    found = store.verify(told.id)
    assert (found.faults, found.messages, found.generations) == ((), 6, 4)


def test_the_digest_of_a_session_is_the_documented_one(store, told):
    pairs = []
    parent = None
    turns = {turn.reply.id: turn.generation for turn in store.recorded_turns(told.id)}
    for message in store.path(told.id):
        digest = message_digest(
            parent=parent,
            role=message.role,
            content=message.content,
            status=message.status,
            token_ids=message.token_ids,
        )
        made = turns.get(message.id)
        pairs.append((digest, None if made is None else made.digest))
        parent = digest
    assert store.verify(told.id).digest == session_digest(pairs)


DAMAGE = [
    ("UPDATE checkpoint SET fingerprint = 'other'", "generation 1"),
    ("UPDATE generation SET seed = 5 WHERE reply_id = 5", "generation 2"),
    ("UPDATE message SET content = 'bye' WHERE content = 'hello'", "message 3 (assistant"),
    ("UPDATE message SET token_ids = '[1]' WHERE content = 'yes'", "message 5 (assistant"),
    ("UPDATE message SET position = 7 WHERE content = 'good day'", "position"),
]


def test_what_was_changed_behind_the_stores_back_is_found_where_it_was_changed(store, told):
    for damage, where in DAMAGE:
        with store._database.writing() as transaction:
            transaction.connection().exec_driver_sql(damage)
        faults = [fault for fault in store.verify(told.id).faults if where in fault.where]
        assert faults
        assert faults[0].expected != faults[0].got
        assert any(where in line for line in store.check())


def test_a_change_on_the_path_changes_the_digest_even_if_the_stored_digests_were_kept(store, told):
    before = store.verify(told.id).digest
    with store._database.writing() as transaction:
        transaction.connection().exec_driver_sql("UPDATE message SET content = 'x' WHERE content = 'hi'")
    assert store.verify(told.id).digest != before


def test_a_generation_from_before_there_was_a_digest_is_no_fault(store, told):
    before = store.verify(told.id)
    with store._database.writing() as transaction:
        transaction.connection().exec_driver_sql("UPDATE generation SET digest = NULL, checksum = NULL")
    assert store.verify(told.id) == before


BASE = {
    "user": "00" * 32,
    "reply": "11" * 32,
    "fingerprint": "f",
    "seed": 1,
    "attempt": 0,
    "sampling": {"a": 1, "b": 2},
    "max_new_tokens": 8,
    "prompt_hash": "p",
    "trimmed_turns": 0,
    "forced_ids": (),
    "finish_reason": "stop",
    "logits_hash": "l",
}


@pytest.mark.parametrize(
    "change",
    [
        {"user": "22" * 32},
        {"reply": "22" * 32},
        {"fingerprint": "g"},
        {"seed": -1},
        {"attempt": 1},
        {"sampling": {"a": 1}},
        {"max_new_tokens": 9},
        {"prompt_hash": "q"},
        {"trimmed_turns": 1},
        {"forced_ids": (0,)},
        {"finish_reason": "length"},
        {"logits_hash": None},
    ],
)
def test_whatever_decides_a_reply_changes_its_generations_digest(change):
    assert generation_digest(**{**BASE, **change}) != generation_digest(**BASE)


def test_the_order_of_settings_does_not_change_a_generations_digest():
    assert generation_digest(**{**BASE, "sampling": {"b": 2, "a": 1}}) == generation_digest(**BASE)


def changed(archive, kind, number, **change):
    records = list(getattr(archive, kind))
    records[number] = replace(records[number], **change)
    return replace(archive, **{kind: tuple(records)})


HOSTILE = {
    "an unknown role": lambda a: changed(a, "messages", 1, role="tool"),
    "an unknown status": lambda a: changed(a, "messages", 1, status="done"),
    "a message twice": lambda a: replace(a, messages=(*a.messages, a.messages[-1])),
    "a missing parent": lambda a: changed(a, "messages", 1, parent_id=99),
    "a parent that comes later": lambda a: replace(a, messages=a.messages[::-1]),
    "a message that is its own parent": lambda a: changed(a, "messages", 1, parent_id=a.messages[1].id),
    "a circle": lambda a: changed(a, "messages", 0, parent_id=a.messages[-1].id),
    "a position twice": lambda a: changed(a, "messages", 2, position=1),
    "a giant position": lambda a: changed(a, "messages", 2, position=10**30),
    "a giant id": lambda a: changed(a, "messages", 0, id=2**63),
    "an id in words": lambda a: changed(a, "messages", 0, id="1"),
    "a lone surrogate": lambda a: changed(a, "messages", 1, content="\ud800"),
    "other words": lambda a: changed(a, "messages", 1, content="ho"),
    "no text": lambda a: changed(a, "messages", 1, content=None),
    "a negative token": lambda a: changed(a, "messages", 2, token_ids=(-1,)),
    "a time without a zone": lambda a: changed(a, "messages", 1, created=datetime(2020, 1, 1)),
    "another digest": lambda a: changed(a, "messages", 1, digest="0" * 64),
    "a digest that is none": lambda a: changed(a, "messages", 1, digest="x"),
    "another digest of the session": lambda a: replace(a, digest="0" * 64),
    "a head that is not there": lambda a: replace(a, session=replace(a.session, head_id=99)),
    "a fork that is not there": lambda a: replace(a, session=replace(a.session, forked_at=99)),
    "another head": lambda a: replace(a, session=replace(a.session, head_id=None)),
    "a giant seed": lambda a: replace(a, session=replace(a.session, seed=2**64)),
    "settings that are no JSON": lambda a: replace(a, session=replace(a.session, settings={"a": object()})),
    "a deep setting": lambda a: replace(a, session=replace(a.session, settings=deep(100_000))),
    "a generation twice": lambda a: replace(a, generations=(*a.generations, a.generations[-1])),
    "a reply with two generations": lambda a: replace(
        a, generations=(*a.generations, replace(a.generations[0], id=77))
    ),
    "a generation's giant seed": lambda a: changed(a, "generations", 0, seed=2**64),
    "another seed": lambda a: changed(a, "generations", 0, seed=3),
    "a reply to nothing": lambda a: changed(a, "generations", 0, user_message_id=99),
    "a reply by nobody": lambda a: changed(a, "generations", 0, reply_id=99),
    "a reply to a reply": lambda a: changed(a, "generations", 0, user_message_id=a.generations[0].reply_id),
    "a reply that is a question": lambda a: changed(
        a, "generations", 0, reply_id=a.generations[0].user_message_id
    ),
    "a complete generation without a reply": lambda a: changed(a, "generations", 0, reply_id=None),
    "an unknown outcome": lambda a: changed(a, "generations", 0, status="won"),
    "two replies that are waited for": lambda a: replace(
        a, generations=(*a.generations, *(waiting(a, number) for number in (70, 71)))
    ),
    "a checkpoint that is not there": lambda a: replace(a, checkpoints=()),
    "a checkpoint twice": lambda a: replace(a, checkpoints=a.checkpoints * 2),
    "another fingerprint": lambda a: changed(a, "checkpoints", 0, fingerprint="e" * 64),
    "forged parts": lambda a: changed(
        a, "checkpoints", 0, parts={**a.checkpoints[0].parts, "weights": "0" * 64}
    ),
    "missing parts": lambda a: changed(a, "checkpoints", 0, parts={}),
    "parts that are no text": lambda a: changed(
        a, "checkpoints", 0, parts={**a.checkpoints[0].parts, "weights": 7}
    ),
    "a long fingerprint": lambda a: changed(a, "checkpoints", 0, fingerprint="f" * 201),
    "a receipt that is no JSON": lambda a: changed(a, "generations", 0, receipt={"loss": float("nan")}),
}


def waiting(archive, number):
    return replace(archive.generations[0], id=number, reply_id=None, status="pending", digest=None)


def deep(levels):
    value = {}
    for _ in range(levels):
        value = {"a": value}
    return value


def test_an_archive_that_does_not_hang_together_is_refused_whole(store, told):
    archive = store.export_session(told.id)
    for name, attack in HOSTILE.items():
        with pytest.raises(InvalidValue):
            store.import_session(attack(archive), name=name)
    assert [each.name for each in store.sessions()] == ["talk"]
    assert len(store.import_session(archive, name="as it was").settings) == 1


def test_an_import_takes_no_name_that_is_taken_or_none(store, told):
    archive = store.export_session(told.id)
    with pytest.raises(SessionExists, match="'talk'"):
        store.import_session(archive)
    with pytest.raises(InvalidName):
        store.import_session(archive, name="")
    assert store.import_session(archive, name="again").name == "again"


def test_an_import_changes_no_row_that_is_there(store, told, elsewhere):
    archive = store.export_session(told.id)
    theirs = archive.checkpoints[0]
    known = elsewhere.remember_checkpoint(
        fingerprint=theirs.fingerprint, parts={}, config={"mine": 1}, step=3, path="mine.pt"
    )
    before = elsewhere.checkpoint(known)
    imported = elsewhere.import_session(archive)
    assert elsewhere.checkpoint(known) == before
    assert {each.checkpoint_path for each in elsewhere.generations(imported.id)} == {"best.pt"}
    # A file from before a generation had a path says where its checkpoint was.
    without = tuple(replace(each, checkpoint_path=None) for each in archive.generations)
    imported = elsewhere.import_session(replace(archive, generations=without), name="older")
    assert {each.checkpoint_path for each in elsewhere.generations(imported.id)} == {"best.pt"}


def test_whoever_has_the_weights_corrects_what_a_file_said_of_them(store, told, elsewhere):
    archive = store.export_session(told.id)
    elsewhere.import_session(changed(archive, "checkpoints", 0, config={"forged": True}, path="theirs.pt"))
    parts = archive.checkpoints[0].parts
    known = elsewhere.remember_checkpoint(
        fingerprint=archive.checkpoints[0].fingerprint, parts=parts, config={"V": 1}, step=9, path="mine.pt"
    )
    found = elsewhere.checkpoint(known)
    assert (found.parts, found.config, found.step, found.path) == (parts, {"V": 1}, 9, "mine.pt")


def test_an_imported_session_was_last_used_when_the_file_says_so(store, told, elsewhere):
    archive = store.export_session(told.id)
    assert elsewhere.import_session(archive).last_used == told.last_used
    late = replace(archive, session=replace(archive.session, last_used=datetime(9999, 1, 1, tzinfo=UTC)))
    assert elsewhere.import_session(late, name="late").last_used < datetime.now(UTC)


def test_a_copy_of_a_checkpoint_renames_it_in_no_session_but_its_own(store, told, exchange):
    theirs = store.export_session(told.id).checkpoints[0]
    store.remember_checkpoint(
        fingerprint=theirs.fingerprint, parts=theirs.parts, config=theirs.config, step=1, path="copy.pt"
    )
    assert store.sessions()[0].checkpoint == "best.pt"
    generation = store.generations(told.id)[0]
    asked = NewGeneration(
        **{field: getattr(generation, field) for field in NewGeneration.__dataclass_fields__}
        | {"checkpoint_path": None}
    )
    store.begin_turn(told.id, content="on", expected_head=told.head_id, generation=asked)
    assert store.sessions()[0].checkpoint == "copy.pt"
