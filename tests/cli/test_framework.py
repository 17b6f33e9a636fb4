"""How a subcommand is found, started and ended, whichever it is."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from niels_gpt.chat_cli import run_chat_cli
from niels_gpt.cli.exit_codes import BROKEN_PIPE, FAILED, OK, USAGE, run_to_status
from niels_gpt.cli.subcommands import SUBCOMMANDS
from sessions import Store

from .conftest import Say

HEAVY = {"torch", "numpy", "numba", "tokenizers", "anyio", "engine"}


def test_every_command_has_its_two_functions() -> None:
    for command in SUBCOMMANDS.values():
        module = importlib.import_module(command.module)
        assert callable(module.add_arguments)
        assert callable(module.run)


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_help_of_every_command_is_status_0(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_chat_cli([name, "--help"]) == OK
    assert f"usage: niels-chat {name}" in capsys.readouterr().out


def test_the_help_of_the_program_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_chat_cli(["--help"]) == OK
    text = capsys.readouterr().out
    assert all(f"  {each.name}" in text and each.summary in text for each in SUBCOMMANDS.values())


def test_a_command_that_is_none_is_one_line_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_chat_cli(["sesions"]) == USAGE
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "did you mean 'sessions'?" in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--temprature", "1"], "unrecognized arguments: --temprature; did you mean --temperature?"),
        (["--modle", "x"], "unrecognized arguments: --modle; did you mean --ckpt?"),
        (["sessions", "--limmit", "1"], "unrecognized arguments: --limmit 1; did you mean --limit?"),
    ],
)
def test_what_was_meant_is_said(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_chat_cli(words) == USAGE
    assert said in capsys.readouterr().err


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_chat_cli(["--version"]) == OK
    assert re.fullmatch(r"niels-chat \S.*\n", capsys.readouterr().out)


def test_config_names_what_a_default_stands_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_chat_cli(["config"]) == OK
    printed = capsys.readouterr().out
    assert "niels-gpt.pt" in printed
    assert "sessions.db" in printed


def test_a_wrong_flag_is_one_line_that_names_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_chat_cli(["sessions", "--nonsense"]) == USAGE
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("niels-chat sessions: ")
    assert printed.err.count("\n") == 1


def test_a_file_that_is_no_store_is_one_line_and_stays_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s.db"
    path.write_bytes(b"no database " * 100)
    assert run_chat_cli(["sessions", "--store", str(path)]) == FAILED
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert path.read_bytes() == b"no database " * 100


def test_listing_sessions_imports_no_model_and_no_event_loop(store: Store, store_path: Path) -> None:
    code = (
        "import sys; from niels_gpt.chat_cli import run_chat_cli; "
        "assert run_chat_cli(sys.argv[1:]) == 0; print(*sys.modules)"
    )
    words = [sys.executable, "-c", code, "sessions", "--store", str(store_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=50)
    names = {name.partition(".")[0] for name in done.stdout.split()}
    assert "sessions" in names
    assert not names & HEAVY


def test_a_reader_that_goes_away_is_a_status_and_no_message(store_path: Path, say: Say) -> None:
    say("a", "hi", "ho")
    read, write = os.pipe()
    os.close(read)
    words = [sys.executable, "-m", "niels_gpt.chat_cli", "sessions", "--store", str(store_path)]
    with subprocess.Popen(words, stdout=write, stderr=subprocess.PIPE) as program:
        os.close(write)
        _, errors = program.communicate(timeout=50)
    assert (program.returncode, errors) == (BROKEN_PIPE, b"")


def test_an_interrupt_is_status_130() -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    assert run_to_status("niels-chat x", interrupted) == 130
