"""`run_chat_cli` where standard input is not a file: a test runner's, a StringIO, a patched `input`."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from niels_gpt.chat import app
from niels_gpt.conversation.options import ChatOptions
from niels_gpt.conversation.workspace import Workspace
from sessions import open_store


@pytest.fixture
def answered(tmp_path: Any, scripted: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Any:
    """Run the chat on what is standard input now, and return the replies."""

    def run(**options: Any) -> str:
        checkpoint = tmp_path / "any.pt"
        checkpoint.touch()

        def make(chosen: ChatOptions) -> Workspace:
            return Workspace(
                chosen,
                open_store=lambda _: open_store(tmp_path / "s.db"),
                load_model=lambda _: scripted(["first"], ["second"]),
            )

        chosen = ChatOptions(checkpoint=checkpoint, session="a", quiet=True, **options)
        assert app.run(chosen, make_workspace=make) == 0
        return capsys.readouterr().out

    return run


def test_lines_of_a_string_are_answered(answered: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\ntwo\n"))
    assert answered() == "first\nsecond\n"


def test_the_input_of_a_test_runner_is_empty(answered: Any) -> None:
    assert answered() == ""


def test_a_patched_input_gives_the_lines(answered: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda _prompt="": lines.pop(0))
    lines = ["one", "two", "/exit", "never read"]
    assert answered() == "first\nsecond\n"
    assert lines == ["never read"]


def test_a_message_of_a_flag_reads_nothing(answered: Any) -> None:
    assert answered(prompt="hi") == "first\n"
