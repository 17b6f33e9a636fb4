"""What may be stored, and that it comes back as it was."""

from __future__ import annotations

import dataclasses
from types import MappingProxyType

import pytest

from sessions import InvalidName, InvalidValue

NAMES = [
    "a", "x" * 200, "../../etc/passwd", "/root", "c:\\x", "שלום", "née 🙂‍↕️", "a b", ".", "..", "~",
    "%s", "'; --", "CON", "a/b", "*?", "-x", "$(id)",
]  # fmt: skip


def test_a_name_is_any_line_of_text_and_never_a_path(store, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    for name in NAMES:
        store.create_session(name, seed=1, system=None, settings={})
        assert store.session(name).name == name
    assert sorted(store.names(), key=NAMES.index) == NAMES
    assert sorted(tmp_path.rglob("*")) == before


REASONS = [
    ("", "empty"),
    ("x" * 201, "201 characters"),
    ("x" * 4096, "4096 characters"),
    (" a", "blank"),
    ("a\u00a0", "blank"),
    ("a\nb", r"control character '\\n'"),
    ("a\0b", "control character"),
    ("a\x1b[2Jb", "control character"),
    ("a\udc80b", "control character"),
    ("a\u2028b", "control character"),
    ("a\u202eb", "direction mark"),
]


def test_a_name_that_could_mislead_is_refused_with_the_reason(store, session):
    for name, reason in REASONS:
        with pytest.raises(InvalidName, match=reason):
            store.create_session(name, seed=1, system=None, settings={})
        with pytest.raises(InvalidName, match=reason):
            store.rename(session.id, name)
        with pytest.raises(InvalidName, match=reason):
            store.fork(session.id, name=name)
    assert store.names() == ["talk"]


CONTENTS = {
    "empty": "",
    "nul": "\0",
    "escapes": "a\0b\x1a0\x1a\x1a",
    "escape": "\x1a",
    "unicode": "🙂 e\u0301 \ufeff\ufffe",
    "blanks": "\r\n\t",
    "control": "\x1b[2J\x07\u202e",
    "megabyte": "x" * 1_000_000,
    "a megabyte of different words": " ".join(map(str, range(150_000))),
}


def test_text_comes_back_as_it_was(store, session, exchange):
    said = []
    for content in CONTENTS.values():
        # A reply has its token ids beside it, and nobody's model says a megabyte.
        reply = content if len(content) < 1000 else "so long"
        exchange(store, session, content, reply)
        said += [content, reply]
    assert [message.content for message in store.path(session.id)][1:] == said
    assert store.check() == []


def test_text_without_a_utf8_form_is_refused_before_anything_is_written(store, session, asked):
    with pytest.raises(InvalidValue, match=r"lone surrogate '\\udc80' at position 1"):
        store.begin_turn(
            session.id, content="a\udc80", expected_head=session.head_id, generation=asked(store)
        )
    with pytest.raises(InvalidValue, match="system prompt"):
        store.create_session("x", seed=1, system="\ud800", settings={})
    with pytest.raises(InvalidValue, match="settings"):
        store.update_settings(session.id, settings={"a": "\ud800"})
    assert len(store.path(session.id)) == 1
    assert len(store.sessions()) == 1


def test_a_seed_beyond_64_bits_is_refused(store):
    for seed in (2**63, -(2**63) - 1, 10**30, "7", 1.5):
        with pytest.raises(InvalidValue, match="the seed is"):
            store.create_session("x", seed=seed, system=None, settings={})
    assert store.sessions() == []


def test_a_huge_number_in_a_generation_is_refused(store, session, asked):
    for field in ("checkpoint_id", "seed", "attempt", "max_new_tokens", "trimmed_turns"):
        generation = dataclasses.replace(asked(store), **{field: 2**63})
        with pytest.raises(InvalidValue, match=str(2**63)):
            store.begin_turn(session.id, content="x", expected_head=session.head_id, generation=generation)


def test_a_label_that_is_too_long_or_has_nul_is_refused_everywhere_alike(store, session, asked):
    for prompt_hash in ("p" * 201, "\0"):
        generation = dataclasses.replace(asked(store), prompt_hash=prompt_hash)
        with pytest.raises(InvalidValue, match="the prompt hash"):
            store.begin_turn(session.id, content="x", expected_head=session.head_id, generation=generation)


def test_forced_tokens_are_kept_with_the_generation(store, session, asked):
    generation = dataclasses.replace(asked(store), forced_ids=(5, 0, 2**62))
    store.begin_turn(session.id, content="x", expected_head=session.head_id, generation=generation)
    assert store.generations(session.id)[0].forced_ids == (5, 0, 2**62)
    with pytest.raises(InvalidValue, match="token id"):
        store.begin_retry(
            session.id,
            user_message_id=store.session("talk").head_id,
            generation=dataclasses.replace(generation, forced_ids=(-1,)),
        )


def test_a_reply_is_checked_before_it_is_written_and_can_be_sent_again(store, session, asked, finished):
    turn = store.begin_turn(session.id, content="hi", expected_head=session.head_id, generation=asked(store))
    outcome = {
        "content": "x",
        "token_ids": [1],
        "status": "complete",
        "finish_reason": "stop",
        "receipt": {},
        "timings": {},
    }
    for wrong in (
        {"token_ids": [-1]},
        {"token_ids": [2**63]},
        {"token_ids": "12"},
        {"token_ids": 12},
        {"status": "done"},
        {"receipt": {"loss": float("nan")}},
        {"timings": {"clock": object()}},
        {"content": "\ud800"},
        {"finish_reason": "stop\0"},
    ):
        with pytest.raises(InvalidValue):
            store.finish_reply(turn.generation.id, **{**outcome, **wrong})
    assert finished(store, turn.generation.id, "hello").content == "hello"


def test_mappings_are_stored_as_plain_json(store):
    settings = MappingProxyType({"deep": MappingProxyType({"ids": (1, 2)}), "big": 2**70, "text": "\0é"})
    created = store.create_session("x", seed=1, system=None, settings=settings)
    assert created.settings == {"deep": {"ids": [1, 2]}, "big": 2**70, "text": "\0é"}
    assert store.session("x").settings == created.settings
