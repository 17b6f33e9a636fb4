"""The first things that somebody types: a question as words, a file on a pipe, a mistyped command."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from niels_gpt import program
from niels_gpt.chat import pipe
from niels_gpt.chat.pipe import run_pipe
from niels_gpt.chat_cli import run_chat_cli
from niels_gpt.cli.exit_codes import FAILED, OK, USAGE
from niels_gpt.cli.options import parse_options
from niels_gpt.conversation.options import ChatOptions
from niels_gpt.conversation.workspace import Workspace
from niels_gpt.terminal.render import Screen
from niels_gpt.text.attachments import attach, folded, with_attachments
from niels_gpt.text.files import UnreadableTextError
from sessions import open_store
from tests.chat.test_pipe import piped
from tests.chat.typist import Watched


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (["what", "is", "rope"], "what is rope"),
        (["what is rope?"], "what is rope?"),
        (["--temperature", "0", "what", "is", "rope"], "what is rope"),
        (["-p", "what", "is", "rope"], "what is rope"),
        (["--", "-5", "plus", "3"], "-5 plus 3"),
        (["sessions are what?"], "sessions are what?"),
    ],
)
def test_words_are_a_question(words: list[str], asked: str) -> None:
    assert parse_options(words, {}).prompt == asked


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sesions"], "unknown command 'sesions': did you mean 'sessions'? (to ask the model: niels-chat -p"),
        (["exprot", "trip"], "did you mean 'export'? (to ask the model: niels-chat -p 'exprot trip')"),
        (
            ["--store", "x.db", "sessions"],
            "put the command first: niels-chat sessions ...; or to ask the model",
        ),
        (
            ["show", "me", "a", "haiku"],
            "arguments: a haiku; to ask the model: niels-chat -p 'show me a haiku'",
        ),
    ],
)
def test_a_question_that_looks_like_a_command_is_told_apart(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_chat_cli(words) == USAGE
    printed = capsys.readouterr()
    assert printed.out == ""
    assert said in printed.err
    assert printed.err.count("\n") == 1


def test_the_word_help_alone_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_chat_cli(["help"]) == OK
    assert "usage: niels-chat [flags] [TEXT ...]" in capsys.readouterr().out


def test_a_pipe_goes_with_the_message_and_is_named(tmp_path: Path, scripted: Any) -> None:
    fine, replies, notices = piped(tmp_path, b"one\ntwo\n", scripted(["short"]), prompt="summarise")
    assert (fine, replies) == (True, "short\n")
    assert notices.startswith("(attached: standard input (7 bytes))\n")
    assert asked(tmp_path) == "summarise\n\n--- standard input ---\none\ntwo\n--- end of standard input ---"


def test_an_empty_pipe_adds_nothing(tmp_path: Path, scripted: Any) -> None:
    assert piped(tmp_path, b" \n", scripted(["ok"]), prompt="hello")[0]
    assert asked(tmp_path) == "hello"


def test_read_attaches_a_file_to_the_next_message_alone(tmp_path: Path, scripted: Any) -> None:
    (tmp_path / "notes.txt").write_text("all of it\n", encoding="utf-8")
    lines = f"/read {tmp_path}/notes.txt\nwhat is it?\nand now?\n/history\n/tree\n".encode()
    fine, replies, notices = piped(tmp_path, lines, scripted(["notes"], ["nothing"]))
    assert (fine, replies) == (True, "notes\nnothing\n")
    assert "with your next message: notes.txt (10 bytes)\n" in notices
    assert notices.count("(attached: notes.txt (10 bytes))\n") == 1
    assert "> what is it?\n  [notes.txt (10 bytes)]\n" in notices
    assert " > what is it? [notes.txt (10 bytes)]  [2]\n" in notices
    assert asked(tmp_path, 1) == "what is it?\n\n--- notes.txt ---\nall of it\n--- end of notes.txt ---"
    assert asked(tmp_path, 3) == "and now?"


def test_read_none_detaches(tmp_path: Path, scripted: Any) -> None:
    (tmp_path / "notes.txt").write_text("all of it", encoding="utf-8")
    piped(tmp_path, f"/read {tmp_path}/notes.txt\n/read none\nhello\n".encode(), scripted())
    assert asked(tmp_path) == "hello"


def test_the_flag_attaches_files_in_their_order(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    options = parse_options(["-f", str(tmp_path / "b.txt"), "-f", str(tmp_path / "a.txt")], {})
    assert [each.name for each in options.attached] == ["b.txt", "a.txt"]


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a\0b", b"  \n"])
def test_a_file_that_is_no_text_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(UnreadableTextError, match=str(tmp_path / "x")):
        attach(tmp_path / "x")


def test_a_missing_file_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_chat_cli(["-f", "/nowhere/x.txt", "hi"]) == FAILED
    assert capsys.readouterr().err.startswith("niels-chat: cannot read the file '/nowhere/x.txt'")


def test_folding_shows_names_and_sizes_and_nothing_else_changes(tmp_path: Path) -> None:
    (tmp_path / "x.md").write_text("--- y ---\nmore\n--- end of y ---\n" * 2, encoding="utf-8")
    whole = with_attachments("why?", [attach(tmp_path / "x.md")])
    assert folded(whole) == "why?\n[x.md (64 bytes)]"
    assert folded("--- a ---\nno end") == "--- a ---\nno end"


def test_a_command_is_told_as_it_was_typed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said = "resume with: niels-chat --session trip (niels-chat's data: x/niels-chat y)"
    script = tmp_path / "my tools" / "niels-chat"
    script.parent.mkdir()
    script.touch(mode=0o755)
    monkeypatch.setattr(sys, "argv", [str(script)])
    monkeypatch.setenv("PATH", "/nowhere")
    assert program.as_started(said) == said.replace("niels-chat --", f"'{script}' --")
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}/nowhere")
    assert program.as_started(said) == said
    monkeypatch.setattr(sys, "argv", ["/somewhere/chat_cli.py"])
    assert program.as_started(said) == said


def asked(folder: Path, position: int = 1) -> str:
    with open_store(folder / "sessions.db") as store:
        session = store.last_used()
        assert session is not None
        return store.path(session.id)[position].content


def test_an_input_that_does_not_end_is_named(
    tmp_path: Path, scripted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipe, "_PATIENCE", 0.0)
    source, sink = os.pipe()
    notices = Watched()
    notices.when = [("waiting for the end of standard input", lambda: os.close(sink))]
    options = ChatOptions(session="a", prompt="hello")
    workspace = Workspace(
        options, open_store=lambda _: open_store(tmp_path / "sessions.db"), load_model=lambda _: scripted()
    )
    screen = Screen(notices, notices, styled=False)
    try:
        assert asyncio.run(asyncio.wait_for(run_pipe(workspace, screen, source, notices), 20)) == OK
    finally:
        os.close(source)
        workspace.close()
    assert asked(tmp_path) == "hello"
