"""Files that were made to do harm: each is refused in one line, in bounded time and memory."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from sessions.formats import FORMATS, ImportRefused, Source, read_sessions
from sessions.formats.errors import quoted

from .conftest import Read

TURN = '{"role": "user", "content": "x"}'


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ("[" * 200_000, "element 1: begins with '\\['"),
        ('{"messages":' + "[" * 200_000, "line 1: is nested too deeply"),
        ('{"messages":' + "[" * 70 + "]" * 70 + "}", "line 1: is nested more than 64 levels deep"),
        ('[{"a":' * 200_000, "element 1: is nested too deeply"),
        ('{"messages": [' + TURN + '], "x": NaN}', "line 1: is not whole JSON \\(NaN is not JSON"),
        ('{"messages": [' + TURN + '], "x": 1e999}', "line 1: .*the number 1e999 is too large"),
        ('{"messages": ' + "9" * 10_000 + "}", "line 1: .*a number has 10000 digits"),
        ('{"messages": [], "messages": []}', "line 1: .*the field 'messages' is there twice"),
        ('{"messages": [' + TURN, "line 1: is not whole JSON"),
        ('[{"messages": [' + TURN + "]}", "ends in the middle of its array"),
        ('[{"messages": [' + TURN + "]}] x", "has 'x' after the end of its array"),
        ('[{"messages": [' + TURN + "]} {}]", "has '{' where ',' is expected"),
        ('[{"messages": [' + TURN + "]},]", "element 2: begins with '\\]'"),
        ('[{"messages" []}]', "element 1: is not whole JSON"),
        (b'{"messages": "\xff"}', "line 1: is not UTF-8"),
        ("", "does not look like any of jsonl, openai"),
        ("PK\x03\x04", "does not look like any of jsonl, openai"),
        ("{}", "does not look like any of jsonl, openai"),
    ],
)
def test_what_is_no_json_of_ours_is_refused_in_one_short_line(
    read: Read, content: str | bytes, where: str
) -> None:
    with pytest.raises(ImportRefused, match=where) as refused:
        read(content)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


def test_a_message_beyond_its_cap_is_refused_by_field(read: Read) -> None:
    long = json.dumps({"messages": [{"role": "user", "content": "\u00e9" * 51}]}, ensure_ascii=False)
    with pytest.raises(
        ImportRefused, match=r"line 1, messages\[0\].content: has 102 bytes: expected at most 100"
    ):
        read(long, message_bytes=100)
    assert read(long, message_bytes=102)


@pytest.mark.parametrize("beginning", ["", "["])
def test_a_record_beyond_its_cap_is_not_even_read(tmp_path: Path, beginning: str) -> None:
    path = tmp_path / "huge.jsonl"
    with path.open("w") as file:
        file.write(beginning + '{"messages": [{"role": "user", "content": "')
        file.write("a" * (40 << 20))
    source = Source(path)
    tracemalloc.start()
    with pytest.raises(ImportRefused, match=r"is longer than 33,554,432 (bytes|characters)"):
        list(read_sessions(source, format_name="openai"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 300 << 20


def test_a_file_beyond_its_cap_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "huge.jsonl"
    with path.open("w") as file:
        file.truncate(2 << 30)
    with pytest.raises(ImportRefused, match="has 2,147,483,648 bytes: expected at most 1,073,741,824"):
        Source(path)


def test_sessions_beyond_their_cap_are_refused(read: Read) -> None:
    line = '{"messages": [' + TURN + "]}\n"
    with pytest.raises(ImportRefused, match="line 4: is one too many: expected at most 3 sessions"):
        read(line * 5, sessions=3)


@pytest.mark.parametrize(("name", "said"), [("missing", "no such file"), (".", "is not a regular file")])
def test_what_is_no_file_is_refused(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(ImportRefused, match=said):
        Source(tmp_path / name)


def test_elements_are_found_wherever_the_window_cuts_them(tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "\\\"'{}[],\u00e9\n" * 900},
        {"role": "assistant", "content": "\\u0041"},
    ]
    path = tmp_path / "array.json"
    path.write_text(json.dumps([{"messages": turns}] * 40, indent=3, ensure_ascii=False))
    found = list(read_sessions(Source(path)))
    assert len(found) == 40
    assert {each.messages[0].content for each in found} == {turns[0]["content"]}


def test_a_byte_order_mark_and_blank_lines_are_no_trouble(read: Read) -> None:
    assert len(read(b"\xef\xbb\xbf\r\n" + b'{"messages": [' + TURN.encode() + b"]}\r\n\r\n")) == 1


@pytest.mark.parametrize("name", ["markdown", "html", "nonsense"])
def test_a_format_that_is_not_read_is_refused_with_those_that_are(read: Read, name: str) -> None:
    with pytest.raises(ImportRefused, match=f"'{name}' cannot be read; expected auto or one of jsonl"):
        read("{}", format_name=name)


def test_every_format_reads_or_writes() -> None:
    assert all(each.read or each.write for each in FORMATS.values())
    assert all(name == each.name for name, each in FORMATS.items())


def test_a_field_with_a_monstrous_name_is_told_in_one_short_line(read: Read) -> None:
    said = {"title": "x", "mapping": {"a\nb" * 100_000: 7}, "current_node": None}
    with pytest.raises(ImportRefused, match=r"mapping\.a ba ba b") as refused:
        read([said])
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 1000


def test_an_error_quotes_no_more_than_can_be_read() -> None:
    assert quoted("x" * 10_000) == repr("x" * 60) + "…"
    assert quoted([0] * 10_000) == "list of length 10000"
    assert quoted([1, 2]) == "[1, 2]"
