"""Every reader of text takes it the same way: with or without a mark, and lines that end at line ends."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from pathlib import Path

import pytest

from niels_gpt.cli.config import configured
from niels_gpt.cli.options import parse_options
from niels_gpt.errors import ReportedError
from niels_gpt.model.config import load_json
from niels_gpt.text import files
from niels_gpt.text.files import UnreadableTextError, decoded, lines_of, read_lines, read_text, replaced
from niels_gpt.train.dialogues import read_dialogues
from niels_gpt.train.held_out import load_heldout

NO_LINE_ENDS = "a\u2028b\x85c\x0cd\x0be\x1cf\rg"
SAID = '{"role": "user", "content": "a\u2028b\x85c"}'

READERS: dict[str, tuple[str, Callable[[Path], object], object]] = {
    "--system-file": (
        f"{NO_LINE_ENDS}\nx\n",
        lambda path: parse_options(["--system-file", str(path)], {"NIELS_CHAT_CONFIG": "/none"}).system,
        f"{NO_LINE_ENDS}\nx",
    ),
    "lines": (f"{NO_LINE_ENDS}\nx\n", lambda path: read_lines(path, "it"), [NO_LINE_ENDS, "x"]),
    "config.toml": (
        'system = "a\u2028b"\ntop_k = 3\n',
        lambda path: {k: v.source for k, v in configured({"NIELS_CHAT_CONFIG": str(path)}).items()}["top_k"],
        None,
    ),
    "training JSON": ('{"model": {"T": 8}}\n', load_json, {"model": {"T": 8}}),
    "dialogues": (
        "user: a\u2028b\nassistant: c\n",
        lambda path: [message["content"] for message in read_dialogues([path])[0]],
        ["a\u2028b", "c"],
    ),
    "held-out data": (
        f'{{"id": "a", "kind": "unknown", "messages": [{SAID}]}}\n',
        lambda path: len(load_heldout(path)),
        1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8], ids=["no mark", "mark"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_every_reader_takes_a_mark_and_cuts_at_line_ends_only(
    tmp_path: Path, reader: str, mark: bytes, end: str
) -> None:
    text, read, expected = READERS[reader]
    path = tmp_path / "file"
    path.write_bytes(mark + text.replace("\n", end).encode())
    assert read(path) == (f"{path}:2" if expected is None else expected)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("content", [b"ok\nca\xe9\n", None], ids=["Latin-1", "a folder"])
def test_every_reader_says_what_it_cannot_read(tmp_path: Path, reader: str, content: bytes | None) -> None:
    path = tmp_path / "file"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(ReportedError, match=r"line 2 has the byte 0xe9|Is a directory") as caught:
        READERS[reader][1](path)
    assert str(path) in str(caught.value)


def test_lines_end_at_line_ends() -> None:
    assert lines_of("a\r\nb\rc\n\nd") == ["a", "b\rc", "", "d"]
    assert lines_of("") == []
    assert lines_of("\n") == [""]


def test_the_line_ends_of_a_file_become_line_feeds_but_not_those_of_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a\r\nb\r")
    assert read_text(path, "it") == "a\nb\r"
    assert decoded(path.read_bytes(), "it") == "a\r\nb\r"


def test_a_file_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_LONGEST", 1 << 20)
    with pytest.raises(UnreadableTextError, match=r"^--system-file '/dev/zero' is larger than 1 MiB$"):
        read_text(Path("/dev/zero"), "--system-file")


def test_a_missing_file_is_named_with_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(UnreadableTextError, match=r"cannot read --prompts '.*none': No such file"):
        read_text(tmp_path / "none", "--prompts")


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        (b"\xef\xbb\xbf/temp 0", ("/temp 0", False)),
        (b"caf\xe9", ("caf\ufffd", True)),
        ("caf\udce9", ("caf\ufffd", True)),
        ("\ud83d half", ("\ufffd half", True)),
        ("caf\N{LATIN SMALL LETTER E WITH ACUTE}", ("caf\N{LATIN SMALL LETTER E WITH ACUTE}", False)),
    ],
)
def test_what_is_typed_has_its_wrong_bytes_replaced(typed: bytes | str, found: tuple[str, bool]) -> None:
    assert replaced(typed) == found


def test_a_system_prompt_of_wrong_bytes_is_replaced_with_a_notice(capsys: pytest.CaptureFixture[str]) -> None:
    options = parse_options(["--system", "caf\udce9"], {"NIELS_CHAT_CONFIG": "/none"})
    assert (options.system, options.default_system) == ("caf\ufffd", "caf\ufffd")
    assert capsys.readouterr().err.count("is not UTF-8") == 1
