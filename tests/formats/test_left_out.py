"""What an import does not take is counted, refused under --strict, or skipped one piece at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sessions import SessionArchive
from sessions.formats import ImportRefused, Source, read_sessions
from sessions.formats.builder import path_of

from .test_chatgpt import conversation, node
from .test_llm_logs import FIRST, SAID, logs
from .test_llm_threads import THREADS, TOLD


def taken(source: Source) -> list[list[tuple[str, str]]]:
    return [said(archive) for archive in read_sessions(source)]


def said(archive: SessionArchive) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in path_of(archive)]


def of(path: Path, value: object, **how: bool) -> Source:
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return Source(path, **how)


def part(**values: Any) -> dict[str, Any]:
    return {"content_type": "multimodal_text", "parts": [values]}


SPOKEN = [
    {"content_type": "audio_transcription", "text": "which tree is tallest", "direction": "in"},
    {"content_type": "real_time_user_audio_video_asset_pointer", "frames_asset_pointers": []},
]


def with_message(key: str, parent: str | None, **changes: Any) -> dict[str, Any]:
    made = node(key, parent, "assistant", "x")
    made["message"].update(changes)
    return made


CHATGPT: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "hidden": (
        with_message("m", "q", metadata={"is_visually_hidden_from_conversation": True}),
        {"hidden messages": 1},
    ),
    "a tool": (with_message("m", "q", author={"role": "tool"}), {"messages of tools": 1}),
    "a call": (with_message("m", "q", recipient="python"), {"calls of tools": 1}),
    "thoughts": (with_message("m", "q", content={"content_type": "thoughts"}), {"thoughts": 1}),
    "a picture": (
        with_message("m", "q", content=part(content_type="image_asset_pointer")),
        {"pictures": 1, "messages without text": 1},
    ),
    "something unknown": (
        with_message("m", "q", content=part(content_type="hologram")),
        {"parts of messages that are not text": 1, "messages without text": 1},
    ),
    "no text": (
        with_message("m", "q", content={"content_type": "text", "parts": [""]}),
        {"messages without text": 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", CHATGPT)
def test_what_is_left_out_of_a_chatgpt_export_is_counted_or_refused(tmp_path: Path, kind: str) -> None:
    left_out, counted = CHATGPT[kind]
    value = [conversation(node("q", None, "user", "hi"), left_out, node("a", "m", "assistant", "ho"))]
    value[0]["current_node"] = "a"
    source = of(tmp_path / "x.json", value)
    assert taken(source) == [[("user", "hi"), ("assistant", "ho")]]
    assert source.left_out == counted
    with pytest.raises(ImportRefused, match=r"mapping\.m\.message.*would be left out"):
        taken(of(tmp_path / "x.json", value, strict=True))


def test_a_flag_that_is_false_hides_nothing_and_what_was_spoken_is_text(tmp_path: Path) -> None:
    value = [
        conversation(
            with_message("m", None, metadata={"is_visually_hidden_from_conversation": False}),
            with_message("v", "m", content={"content_type": "multimodal_text", "parts": SPOKEN}),
        )
    ]
    value[0]["current_node"] = "v"
    source = of(tmp_path / "x.json", value, strict=True)
    assert taken(source) == [[("assistant", "x"), ("assistant", "which tree is tallest")]]


def test_a_conversation_of_which_nothing_is_left_is_counted(tmp_path: Path) -> None:
    source = of(tmp_path / "x.json", [conversation(node("r", None))])
    assert taken(source) == []
    assert source.left_out == {"sessions without messages": 1}


def test_calls_and_results_of_tools_are_left_out_of_a_list_of_messages(tmp_path: Path) -> None:
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "image_url"}, {"type": "text", "text": "2+2?"}]},
        {"role": "assistant", "content": None, "tool_calls": [{}]},
        {"role": "tool", "content": "4"},
        {"role": "assistant", "content": "It is 4."},
    ]
    source = of(tmp_path / "x.jsonl", {"messages": messages})
    assert taken(source) == [[("user", "2+2?"), ("assistant", "It is 4.")]]
    assert source.left_out == {"pictures": 1, "calls of tools": 1, "messages of tools": 1}


def test_empty_rows_and_rows_of_no_conversation_are_left_out_of_logs(tmp_path: Path) -> None:
    more = """
    UPDATE responses SET response = '' WHERE id = 'r1';
    UPDATE responses SET prompt = '' WHERE id = 'r2';
    INSERT INTO responses (id, prompt, response) VALUES ('r4', 'alone', 'yes');
    """
    source = Source(logs(tmp_path / "logs.db", FIRST, SAID, more))
    trees, _ = taken(source)
    assert trees == [("system", "be brief"), ("user", "What is a tree?"), ("assistant", "Many.")]
    assert source.left_out == {
        "messages without text": 2,
        "responses without a conversation": 1,
        "conversations without messages": 1,
    }


def test_a_database_with_old_and_new_conversations_gives_both(tmp_path: Path) -> None:
    source = Source(logs(tmp_path / "logs.db", FIRST, THREADS, SAID, TOLD))
    assert [each.session.name for each in read_sessions(source)] == ["Trees", "logs-2", "Rivers"]


LINE = '{"messages": [{"role": "user", "content": "%s"}]}'


@pytest.mark.parametrize(
    ("text", "kept", "skipped"),
    [
        (f"{LINE % 'a'}\n{{broken\n{LINE % 'b'}\n", "ab", "line 2: is not whole JSON"),
        (f"{LINE % 'a'}\n{{\"messages\": 7}}\n{LINE % 'b'}", "ab", r"line 2, messages: 7 is not a list"),
        (f"{LINE % 'a'}\n{'x' * 3000}\n{LINE % 'b'}\n", "ab", "line 2: is longer than 2,000 bytes"),
        (f"[{LINE % 'a'}, {{\"messages\": [1]}}, {LINE % 'b'}]", "ab", r"element 2, messages\[0\]: 1 is not"),
    ],
)  # fmt: skip
def test_one_bad_piece_is_skipped_and_named_and_the_rest_taken(
    tmp_path: Path, text: str, kept: str, skipped: str
) -> None:
    from sessions.formats import Limits  # noqa: PLC0415

    path = tmp_path / "x.jsonl"
    path.write_text(text)
    with pytest.raises(ImportRefused, match=skipped):
        list(read_sessions(Source(path, limits=Limits(record_bytes=2_000)), format_name="openai"))
    source = Source(path, limits=Limits(record_bytes=2_000), skip_bad=True)
    found = [said(each)[0][1] for each in read_sessions(source, format_name="openai")]
    assert found == list(kept)
    assert len(source.skipped) == 1


def test_a_bad_session_of_our_own_format_is_skipped_up_to_the_next(
    tmp_path: Path, archive: SessionArchive
) -> None:
    from sessions.formats import write_sessions  # noqa: PLC0415

    path = tmp_path / "x.jsonl"
    with path.open("w", encoding="utf-8") as file:
        write_sessions([archive, archive, archive], file, format_name="jsonl")
    lines = path.read_text(encoding="utf-8").split("\n")
    each = (len(lines) - 2) // 3
    changed = [*lines[: each + 3], lines[each + 3].replace("be brief", "be long"), *lines[each + 4 :]]
    cut = lines[: each + 4] + lines[each + 6 :]
    for spoiled in (changed, cut):
        path.write_text("\n".join(spoiled), encoding="utf-8")
        with pytest.raises(ImportRefused):
            list(read_sessions(Source(path)))
        source = Source(path, skip_bad=True)
        assert [found.digest for found in read_sessions(source)] == [archive.digest] * 2
        assert len(source.skipped) == 1


@pytest.mark.parametrize(
    "turns",
    [
        {"messages": [{"role": "user", "content": "x"}]},
        {"conversations": [{"from": "human", "value": "x"}]},
    ],
)
def test_one_object_over_several_lines_is_read(tmp_path: Path, turns: object) -> None:
    source = of(tmp_path / "x.json", json.dumps(turns, indent=2))
    assert taken(source) == [[("user", "x")]]


def test_an_object_that_is_cut_off_is_told_as_one(tmp_path: Path) -> None:
    with pytest.raises(ImportRefused, match="object 1: is not whole JSON"):
        taken(of(tmp_path / "x.json", '{\n  "messages": [\n'))


def test_many_blank_lines_cost_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\n \r\n" * 1_000_000 + (LINE % "a").encode())
    source = Source(path)
    assert [said(each) for each in read_sessions(source, format_name="openai")] == [[("user", "a")]]
    path.write_bytes(b"\n" * 5 + b"{broken")
    with pytest.raises(ImportRefused, match="line 6: "):
        list(read_sessions(Source(path), format_name="openai"))
