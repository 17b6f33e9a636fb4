"""What may be stored, and that it comes back as it was."""

from __future__ import annotations

import dataclasses
from types import MappingProxyType

import pytest

from sessions import InvalidName, InvalidValue


@pytest.mark.parametrize(
    "name", ["a", "x" * 200, "../../etc/passwd", "/root", "c:\\x", "שלום", "née 🙂‍↕️", "a b", "."]
)
def test_a_name_is_any_line_of_text_and_never_a_path(store, tmp_path, name):
    before = sorted(tmp_path.rglob("*"))
    store.create_session(name, seed=1, system=None, settings={})
    assert store.session(name).name == name
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "empty"),
        ("x" * 201, "201 characters"),
        (" a", "blank"),
        ("a\u00a0", "blank"),
        ("a\nb", r"control character '\\n'"),
        ("a\0b", "control character"),
        ("a\x1b[2Jb", "control character"),
        ("a\udc80b", "control character"),
        ("a\u202eb", "direction mark"),
    ],
)
def test_a_name_that_could_mislead_is_refused_with_the_reason(store, name, reason):
    with pytest.raises(InvalidName, match=reason):
        store.create_session(name, seed=1, system=None, settings={})
    assert store.sessions() == []


@pytest.mark.parametrize(
    "content",
    ["", "\0", "a\0b\x1a0\x1a\x1a", "\x1a", "🙂 e\u0301 \ufeff\ufffe", "\r\n\t", "x" * 1_000_000],
    ids=["empty", "nul", "escapes", "escape", "unicode", "blanks", "megabyte"],
)
def test_text_comes_back_as_it_was(store, session, exchange, content):
    exchange(store, session, content, content)
    assert [message.content for message in store.path(session.id)][1:] == [content, content]
    assert store.sessions()[0].turns == 1


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


@pytest.mark.parametrize("seed", [2**63, -(2**63) - 1, 10**30, "7", 1.5])
def test_a_seed_beyond_64_bits_is_refused(store, seed):
    with pytest.raises(InvalidValue, match="the seed is"):
        store.create_session("x", seed=seed, system=None, settings={})
    assert store.sessions() == []


@pytest.mark.parametrize("field", ["checkpoint_id", "seed", "attempt", "max_new_tokens", "trimmed_turns"])
def test_a_huge_number_in_a_generation_is_refused(store, session, asked, field):
    generation = dataclasses.replace(asked(store), **{field: 2**63})
    with pytest.raises(InvalidValue, match=str(2**63)):
        store.begin_turn(session.id, content="x", expected_head=session.head_id, generation=generation)


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
        {"status": "done"},
        {"receipt": {"loss": float("nan")}},
        {"timings": {"clock": object()}},
        {"content": "\ud800"},
    ):
        with pytest.raises(InvalidValue):
            store.finish_reply(turn.generation.id, **{**outcome, **wrong})
    assert finished(store, turn.generation.id, "hello").content == "hello"


def test_mappings_are_stored_as_plain_json(store):
    settings = MappingProxyType({"deep": MappingProxyType({"ids": (1, 2)}), "big": 2**70, "text": "\0é"})
    created = store.create_session("x", seed=1, system=None, settings=settings)
    assert created.settings == {"deep": {"ids": [1, 2]}, "big": 2**70, "text": "\0é"}
    assert store.session("x").settings == created.settings
