"""Our own format: what goes out comes back the same, and what was changed on the way is refused."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sessions import Generation, Session, SessionArchive, SessionExists, Store, open_store
from sessions.fields import Count, FreeText
from sessions.formats import ImportRefused, Limits, write_sessions
from sessions.formats.field_validation import Fields
from sessions.formats.native import _record

from .conftest import Read, ask


def lines_of(*archives: SessionArchive) -> list[dict[str, Any]]:
    out = io.StringIO()
    write_sessions(archives, out, format_name="jsonl")
    return [json.loads(line) for line in out.getvalue().splitlines()]


def as_text(lines: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)


@pytest.fixture
def lines(archive: SessionArchive) -> list[dict[str, Any]]:
    return lines_of(archive)


def test_what_is_read_is_what_was_written(archive: SessionArchive, read: Read) -> None:
    assert read(as_text(lines_of(archive))) == [archive]


def test_an_imported_session_verifies_with_the_same_digest_branches_included(
    store: Store, told: Session, read: Read, tmp_path: Path
) -> None:
    (archive,) = read(as_text(lines_of(store.export_session(told.id))))
    with open_store(tmp_path / "elsewhere.db") as elsewhere:
        elsewhere.create_session("so that ids differ", seed=1, system="x", settings={})
        imported = elsewhere.import_session(archive)
        found = elsewhere.verify(imported.id)
        assert found == store.verify(told.id)
        assert found.faults == ()
        assert len(elsewhere.variants(imported.id, elsewhere.path(imported.id)[1].id)) == 2
        turns = [
            (each.generation.seed, each.generation.forced_ids, each.reply.token_ids)
            for each in elsewhere.recorded_turns(imported.id)
        ]
        assert turns == [
            (each.generation.seed, each.generation.forced_ids, each.reply.token_ids)
            for each in store.recorded_turns(told.id)
        ]


def test_several_sessions_share_a_file(store: Store, told: Session, read: Read) -> None:
    other = store.create_session("other", seed=1, system=None, settings={})
    text = as_text(lines_of(store.export_session(told.id), store.export_session(other.id)))
    assert [each.session.name for each in read(text)] == ["talk", "other"]


Change = Callable[[list[dict[str, Any]]], object]


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda lines: lines[4].update(content="What is a bee?"), "line 5, digest: is '.*changed"),
        (lambda lines: lines[4].update(position=9), "line 5, position: 9 is not 1"),
        (lambda lines: lines[4].update(role="robot"), "line 5, role: 'robot' is not known"),
        (lambda lines: lines[4].update(content=7), "line 5, content: 7 is not text"),
        (lambda lines: lines[4].update(content="\ud800"), "line 5, content: it contains the lone surrogate"),
        (lambda lines: lines[4].pop("created"), "line 5, created: is missing"),
        (lambda lines: lines[4].update(created="yesterday"), "line 5, created: 'yesterday' is not a moment"),
        (lambda lines: lines[4].update(parent_id=99), "line 5, parent_id: no message 99"),
        (lambda lines: lines[4].update(id=1), "line 5, id: 1 is the id of two messages"),
        (lambda lines: lines[4].update(id=True), "line 5, id: True is not a whole number"),
        (lambda lines: lines[4].update(type="massage"), "line 5, type: 'massage' is not known"),
        (lambda lines: lines[5].update(token_ids=[1, -1]), r"line 6, token_ids\[1\]: -1 is not a token id"),
        (lambda lines: lines[-1].update(seed=2**64), "line 12, seed: it is 18446744073709551616"),
        (lambda lines: lines[-1].update(seed=12), "line 12, digest: is '.*changed"),
        (lambda lines: lines[-1].update(checkpoint_id=5), "line 12, checkpoint_id: .* no checkpoint 5"),
        (lambda lines: lines[-1].update(reply_id=1), "line 12, reply_id: message 1 is not a reply"),
        (lambda lines: lines[-1].update(environment=[]), r"line 12, environment: \[\] is not an object"),
        (lambda lines: lines[-1]["environment"].update(weights=["a"]), r"line 12, environment\.weights: "),
        (lambda lines: lines[-1]["environment"].update(threads="2"), r"line 12, environment\.threads: '2'"),
        (
            lambda lines: lines[-1]["environment"].update(seed_source={}),
            r"session_seed: is missing",
        ),
        (
            lambda lines: lines[-1].update(timings={"total": -1}),
            r"timings\.total: -1 is not a number",
        ),
        (
            lambda lines: lines[-1].update(timings={"total": 1e300}),
            r"timings\.total: 1e\+300 is not",
        ),
        (lambda lines: lines[-1].update(receipt={"logits_hash": 7}), r"line 12, receipt\.logits_hash: 7 is"),
        (
            lambda lines: lines[5].update(token_ids=[2**31]),
            r"line 6, token_ids\[0\]: 2147483648 is not",
        ),
        (
            lambda lines: lines[1].update(settings={"top_k": {}}),
            r"line 2, settings\.top_k: \{\} is not",
        ),
        (lambda lines: lines[1].update(head_id=77), "line 2, head_id: the session has no message 77"),
        (lambda lines: lines[1].update(digest="0" * 64), "line 2, digest: is '000.*, but its messages give"),
        (lambda lines: lines[1].update(name=" x"), "line 2, name: ' x' cannot be a session name"),
        (lambda lines: lines[-1].update(status="failed"), "line 12, status: is 'failed', which its reply is"),
        (lambda lines: lines[-1].update(reply_id=None), "line 12, status: is 'complete', which its reply is"),
        (lambda lines: lines[0].update(version=2), "line 1, version: 2 is not known: this program reads 1"),
        (lambda lines: lines.pop(), "line 2, generations: there are 2 of 3"),
        (lambda lines: lines.append(lines[-1]), "line 13: comes after the last session"),
        (lambda lines: lines[0].update(sessions=2), "ends after 1 of its 2 sessions"),
    ],
)
def test_a_line_that_was_changed_is_refused_by_line_and_field(
    lines: list[dict[str, Any]], read: Read, change: Change, where: str
) -> None:
    change(lines)
    with pytest.raises(ImportRefused, match=where):
        read(as_text(lines), format_name="jsonl")


def test_one_bad_archive_keeps_all_others_of_its_file_out(store: Store, told: Session, read: Read) -> None:
    archive = store.export_session(told.id)
    before = store.verify(told.id)
    with pytest.raises(SessionExists, match="already a session named 'talk'"):
        store.import_sessions([archive, archive], names=["new", "talk"])
    assert [each.name for each in store.sessions()] == ["talk"]
    assert store.verify(told.id) == before
    assert store.check() == []


texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said=st.lists(st.tuples(texts, texts), max_size=3), system=st.none() | texts)
def test_any_text_survives_the_way_out_and_back(
    store: Store, read: Read, said: list[tuple[str, str]], system: str | None
) -> None:
    session = store.create_session(
        f"s{len(store.names(limit=100))}", seed=1, system=system, settings={"note": system}
    )
    for question, reply in said:
        ask(store, session, question, reply)
    archive = store.export_session(session.id)
    assert read(as_text(lines_of(archive))) == [archive]


@dataclass(frozen=True, kw_only=True)
class LaterGeneration(Generation):
    """A generation with two more columns: one record, its table and a migration name them, nothing else."""

    mood: FreeText | None
    retries: Count


def test_a_column_is_read_by_its_type_and_named_nowhere(lines: list[dict[str, Any]]) -> None:
    stored = next(line for line in lines[1:] if line["type"] == "generation")
    line = Fields(where="line 1", values={**stored, "retries": 2}, limits=Limits())
    later = _record(LaterGeneration, line)
    assert (later.mood, later.retries, later.prompt_hash) == (None, 2, stored["prompt_hash"])
    with pytest.raises(ImportRefused, match="retries: 'two' is not a whole number"):
        _record(LaterGeneration, replace(line, values={**stored, "retries": "two"}))
