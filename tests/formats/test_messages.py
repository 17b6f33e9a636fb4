"""Lists of role and text: OpenAI's messages and ShareGPT."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sessions import Session, Store
from sessions.formats import ImportRefused, Source, read_sessions, write_sessions
from sessions.formats.builder import in_a_row, path_of

from .conftest import Read

SAID = [
    ("system", "be brief"),
    ("user", "What is a tree?"),
    ("assistant", "Something with \u2028 leaves \U0001f333."),
    ("user", "And a <forest>?"),
    ("assistant", "Many & more."),
]


def written(store: Store, session: Session, format_name: str) -> str:
    out = io.StringIO()
    write_sessions([store.export_session(session.id)], out, format_name=format_name)
    return out.getvalue()


def said(archive) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in path_of(archive)]


def test_openai_lines_have_nothing_but_roles_and_contents(store: Store, told: Session) -> None:
    line = json.loads(written(store, told, "openai"))
    assert line == {"messages": [{"role": role, "content": content} for role, content in SAID]}


def test_sharegpt_lines_have_its_names_for_roles(store: Store, told: Session) -> None:
    line = json.loads(written(store, told, "sharegpt"))
    assert line["id"] == "talk"
    assert [turn["from"] for turn in line["conversations"]] == ["system", "human", "gpt", "human", "gpt"]


@pytest.mark.parametrize("format_name", ["openai", "sharegpt"])
def test_what_was_written_is_read_again(store: Store, told: Session, read: Read, format_name: str) -> None:
    (archive,) = read(written(store, told, format_name))
    assert said(archive) == SAID
    imported = store.import_session(archive, name="again")
    assert store.verify(imported.id).faults == ()


def test_a_sharegpt_array_is_read_as_its_lines_are(read: Read) -> None:
    turns = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]
    found = read([{"id": "a", "conversations": turns}, {"conversations": turns}])
    assert [each.session.name for each in found] == ["a", "file-2"]
    assert said(found[1]) == [("user", "hi"), ("assistant", "ho")]


def test_contents_in_parts_are_joined_and_developers_are_the_system(read: Read) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    (archive,) = read({"messages": [{"role": "developer", "content": parts}]})
    assert said(archive) == [("system", "ab")]


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ({"messages": [{"role": "robot", "content": "x"}]}, r"line 1, messages\[0\].role: 'robot'"),
        ({"messages": [{"role": "user"}]}, r"line 1, messages\[0\].content: is missing"),
        ({"messages": [{"role": "user", "content": None}]}, r"messages\[0\].content: None is not text"),
        ({"messages": ["hi"]}, r"messages\[0\]: 'hi' is not an object"),
        (
            {"messages": [{"role": "user", "content": [{"type": "hologram"}]}]},
            r"messages\[0\].content\[0\].type: 'hologram' is not known",
        ),
        (
            [{"conversations": [{"from": "alien", "value": ""}]}],
            r"element 1, conversations\[0\].from: 'alien'",
        ),
    ],
)
def test_what_has_no_place_in_a_session_is_refused_by_field(read: Read, content: object, where: str) -> None:
    with pytest.raises(ImportRefused, match=where):
        read(content)


def test_a_title_becomes_a_name_that_is_allowed(read: Read) -> None:
    turns = [{"role": "user", "content": "x"}]
    titles = ["  \u202e a\x1b\n title\u2028 ", "x" * 900, "\u0007", 7, "\u05e9\u05dc\u05d5\u05dd"]
    text = "\n".join(json.dumps({"title": title, "messages": turns}) for title in titles)
    names = [each.session.name for each in read(text)]
    assert names == ["a title", "x" * 192, "file-3", "file-4", "\u05e9\u05dc\u05d5\u05dd"]


texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
roles = st.sampled_from(["system", "user", "assistant"])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(roles, texts), min_size=1, max_size=5), st.sampled_from(["openai", "sharegpt"]))
def test_any_roles_and_texts_come_back(tmp_path_factory, turns, format_name: str) -> None:
    path = tmp_path_factory.getbasetemp() / "property.jsonl"
    moment = Source(Path(__file__)).now
    with path.open("w", encoding="utf-8") as file:
        write_sessions([in_a_row("name", turns, created=moment)], file, format_name=format_name)
    (archive,) = read_sessions(Source(path), format_name=format_name)
    assert said(archive) == turns
