"""`niels-chat sessions`: every session, last used first, in lines that fit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from prompt_toolkit.utils import get_cwidth

from niels_gpt.chat_cli import run_chat_cli
from niels_gpt.cli.subcommands.names import names
from niels_gpt.conversation.options import ChatOptions
from sessions import Store

from .conftest import Command, Say


def test_the_list_shows_name_turns_and_first_words_with_the_last_used_first(
    command: Command, say: Say
) -> None:
    say("older", "What is a tree?", "A plant.")
    say("newer", "And a forest?", "Many.")
    say("newer", "How many?", "Some.")
    done = command("sessions")
    heading, first, second = done.out.splitlines()
    assert heading.split() == ["NAME", "LAST", "USED", "TURNS", "CHECKPOINT", "FIRST", "WORDS"]
    assert first.split()[0] == "newer"
    assert "  2  best.pt     And a forest?" in first
    assert second.split()[0] == "older"
    assert (done.status, done.err) == (0, "")


@pytest.mark.parametrize("columns", [40, 80])
def test_no_line_is_wider_than_the_terminal_whatever_the_names(
    command: Command, say: Say, columns: int
) -> None:
    for name in ("\u6f22\u5b57" * 25, "\u05e9\u05dc\u05d5\u05dd", "a" * 150, "e\u0301t\u00e9 \U0001f600"):
        say(name, "\u4f60\u597d " * 40, "x")
    lines = command("sessions", columns=columns).out.splitlines()
    assert max(map(get_cwidth, lines)) <= columns
    assert "\u05e9\u05dc\u05d5\u05dd" in "".join(lines)


def test_control_characters_of_a_message_are_shown_and_not_obeyed(command: Command, say: Say) -> None:
    say("a", "\x1b]0;title\x07 \x9b31m \u202ereversed", "x")
    shown = command("sessions").out + command("sessions", "--json").out
    assert not set(shown) & set("\x1b\x07\x9b\u202e")
    assert "\u241b]0;title" in shown


def test_json_is_one_object_a_line_with_moments_in_utc(command: Command, say: Say) -> None:
    say("a", "hi \u2028 there", "x")
    done = command("sessions", "--json")
    (line,) = done.out.splitlines()
    found = json.loads(line)
    assert (found["name"], found["turns"], found["archived"]) == ("a", 1, False)
    assert found["last_used"].endswith("+00:00")


def test_an_empty_store_prints_nothing_but_a_remark(command: Command, store: Store) -> None:
    done = command("sessions")
    assert (done.status, done.out) == (0, "")
    assert "no sessions yet" in done.err


def test_pages_tell_that_there_are_more(command: Command, say: Say) -> None:
    for name in "abc":
        say(name, "hi", "ho")
    first = command("sessions", "--limit", "2")
    assert [line.split()[0] for line in first.out.splitlines()] == ["NAME", "c", "b"]
    assert first.err == "more sessions: rerun with --offset 2\n"
    last = command("sessions", "--limit", "2", "--offset", "2")
    assert last.out.splitlines()[1].split()[0] == "a"
    assert last.err == ""


def test_archived_sessions_are_shown_on_request(command: Command, say: Say) -> None:
    say("a", "hi", "ho")
    command("delete", "a")
    assert command("sessions").out == ""
    assert "(archived) hi" in command("sessions", "--archived").out


def test_names_are_one_a_line_and_never_an_error(command: Command, say: Say) -> None:
    say("tree house", "hi", "ho")
    say("forest", "hi", "ho")
    assert command("sessions", "--names").out == "forest\ntree house\n"
    assert command("sessions", "--names", "tr").out == "tree house\n"
    assert command("sessions", "--names", "\x1b").out == ""
    assert names("t", store="/nowhere/at/all.db") == []
    assert names("t", store="nonsense://x") == []


def test_the_store_may_be_configured_instead_of_named(
    store_path: Path, say: Say, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say("tree", "hi", "ho")
    monkeypatch.setenv("NIELS_CHAT_STORE", str(store_path))
    assert run_chat_cli(["sessions", "--names"]) == 0
    assert capsys.readouterr().out == "tree\n"


def test_a_store_that_is_not_there_is_an_error_and_is_not_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "typo.db"
    assert run_chat_cli(["sessions", "--store", str(path)]) == 1
    assert "there is no session store at" in capsys.readouterr().err
    assert not path.exists()


def test_names_are_completed_without_loading_the_store(store: Store, say: Say, store_path: Path) -> None:
    say("talk", "hi", "hello")
    program = (
        "import sys; from niels_gpt.chat_cli import run_chat_cli; "
        f"run_chat_cli(['sessions', '--names', 't', '--store', {str(store_path)!r}]); "
        "print({'sqlmodel', 'sqlalchemy', 'pydantic', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "talk\nset()\n"


def test_a_mistyped_url_makes_no_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in (f"sqlite:///{tmp_path}/typo.db", f"sqlite:///{tmp_path}/typo.db?mode=ro"):
        assert run_chat_cli(["sessions", "--store", place]) == 1
        assert "typo.db" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_password_of_a_store_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    url = "postgresql+psycopg://me:secret@localhost:1/db"
    for words in (["config"], ["config", "--json"], ["sessions"], ["doctor"], ["doctor", "--json"]):
        run_chat_cli([*words, "--store", url])
    printed = capsys.readouterr()
    assert "secret" not in printed.out + printed.err
    assert "me:***@localhost" in printed.out
    assert "secret" not in " ".join(ChatOptions(store=url).resume_arguments("talk"))
