"""The conversations file of a ChatGPT data export, made here as that program writes it."""

from __future__ import annotations

from typing import Any

import pytest

from sessions import Store
from sessions.formats import ImportRefused
from sessions.formats.builder import path_of

from .conftest import Read


def node(
    key: str, parent: str | None, role: str | None = None, *parts: object, **message: Any
) -> dict[str, Any]:
    """One node of a mapping; without a role it has no message."""
    said = role and {
        "id": key,
        "author": {"role": role, "name": None, "metadata": {}},
        "create_time": 1700000000.5,
        "content": {"content_type": "text", "parts": list(parts)},
        "metadata": {},
        "recipient": "all",
        **message,
    }
    return {"id": key, "message": said or None, "parent": parent, "children": []}


def conversation(*nodes: dict[str, Any], current: str | None = None, **values: Any) -> dict[str, Any]:
    mapping = {each["id"]: each for each in nodes}
    for each in nodes:
        if each["parent"] in mapping:
            mapping[each["parent"]]["children"].append(each["id"])
    return {
        "title": "Trees",
        "create_time": 1700000000.0,
        "update_time": 1700000001.0,
        "mapping": mapping,
        "current_node": current or nodes[-1]["id"],
        **values,
    }


def branched() -> dict[str, Any]:
    """A question that was asked again in other words; the second one is where it stands."""
    return conversation(
        node("root", None),
        node("sys", "root", "system", "", metadata={"is_visually_hidden_from_conversation": True}),
        node("q1", "sys", "user", "What is a tree?"),
        node("a1", "q1", "assistant", "A plant."),
        node("q2", "sys", "user", "What is a big tree?"),
        node("call", "q2", "assistant", 'search("tree")', recipient="browser"),
        node("result", "call", "tool", "a page"),
        node("a2", "result", "assistant", "A sequoia."),
    )


def test_branches_become_siblings_and_the_head_is_where_it_stood(store: Store, read: Read) -> None:
    (archive,) = read([branched()])
    session = store.import_session(archive)
    path = store.path(session.id)
    assert [(each.role, each.content) for each in path] == [
        ("user", "What is a big tree?"),
        ("assistant", "A sequoia."),
    ]
    assert [each.content for each in store.export_session(session.id).messages if each.parent_id is None] == [
        "What is a tree?",
        "What is a big tree?",
    ]
    assert session.name == "Trees"
    assert f"{session.created:%F %T}" == "2023-11-14 22:13:20"
    assert store.verify(session.id).faults == ()


def test_siblings_are_in_the_order_that_their_parent_names(read: Read) -> None:
    said = branched()
    said["mapping"]["sys"]["children"] = ["q2", "q1"]
    (archive,) = read([said])
    roots = [each.content for each in archive.messages if each.parent_id is None]
    assert roots == ["What is a big tree?", "What is a tree?"]


@pytest.mark.parametrize("metadata", [None, "text", []])
def test_a_message_without_metadata_is_not_hidden(read: Read, metadata: object) -> None:
    (archive,) = read([conversation(node("q", None, "user", "hi", metadata=metadata))])
    assert [each.content for each in archive.messages] == ["hi"]


def test_a_current_node_that_is_left_out_stands_for_what_is_above_it(read: Read) -> None:
    said = branched()
    said["current_node"] = "result"
    (archive,) = read([said])
    assert [each.content for each in path_of(archive)] == ["What is a big tree?"]


def test_pictures_are_left_out_and_texts_beside_them_stay(read: Read) -> None:
    picture = {"content_type": "image_asset_pointer", "asset_pointer": "file-service://x"}
    content = {"content_type": "multimodal_text", "parts": [picture, "What is this?"]}
    (archive,) = read([conversation(node("q", None, "user", content=content))])
    assert [each.content for each in archive.messages] == ["What is this?"]


def test_thoughts_and_code_for_tools_are_left_out(read: Read) -> None:
    thoughts = {"content_type": "thoughts", "thoughts": []}
    (archive,) = read(
        [conversation(node("q", None, "user", "hi"), node("t", "q", "assistant", content=thoughts))]
    )
    assert [each.content for each in archive.messages] == ["hi"]


def test_a_conversation_without_a_title_is_named_after_the_file(read: Read) -> None:
    found = read([conversation(node("q", None, "user", "hi"), title=None)])
    assert [each.session.name for each in found] == ["file-1"]


def changed(**values: Any) -> dict[str, Any]:
    said = branched()
    said["mapping"]["q1"].update(values)
    return said


@pytest.mark.parametrize(
    ("said", "where"),
    [
        (changed(parent="nowhere"), "element 1, mapping.q1.parent: 'nowhere' is not a node"),
        (changed(parent="a1"), "element 1, mapping: 2 nodes are their own ancestors"),
        (changed(message={"author": {"role": "robot"}}), "mapping.q1.message.author.role: 'robot'"),
        (changed(message={"author": None}), "mapping.q1.message.author: None is not an object"),
        (changed(message="hi"), "mapping.q1.message: 'hi' is not an object"),
        ({**branched(), "current_node": "x"}, "element 1, current_node: 'x' is not a node"),
        ({**branched(), "create_time": 1e18}, "element 1, create_time: 1e\\+18 is not a time"),
    ],
)
def test_what_is_no_tree_of_messages_is_refused_by_field(read: Read, said: object, where: str) -> None:
    with pytest.raises(ImportRefused, match=where):
        read([said])


def test_a_tree_as_deep_as_it_may_be_is_no_trouble(read: Read) -> None:
    nodes = [node(f"n{number}", f"n{number - 1}" if number else None, "user", "x") for number in range(1_500)]
    (archive,) = read([conversation(*nodes)])
    assert archive.messages[-1].position == 1_499
    with pytest.raises(ImportRefused, match="is message 101 of its session: expected at most 100"):
        read([conversation(*nodes)], messages=100)
