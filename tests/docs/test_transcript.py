"""The conversation on the README's first screen: killed, resumed and replayed, with the replies it shows."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from niels_gpt.chat_cli import run_chat_cli

REPO = Path(__file__).resolve().parents[2]
README = (REPO / "README.md").read_text("utf-8")
SCREEN = re.search(r"^```\n(\$ niels-chat.*?)```", README, re.DOTALL | re.MULTILINE)
NOTICES = re.compile(r"new session|resumed|\(this reply|resume with|Killed|/exit")


def scenes() -> list[tuple[list[str], list[str]]]:
    """Give the words of each command, and the lines under it."""
    assert SCREEN is not None
    parts = re.split(r"^\$ ", SCREEN[1], flags=re.MULTILINE)[1:]
    return [(part.splitlines()[0].split()[1:], part.strip().splitlines()[1:]) for part in parts]


def said(lines: list[str]) -> list[str]:
    return [line for line in lines if not line.startswith("> ") and not NOTICES.match(line)]


def test_a_killed_conversation_resumes_and_replays_as_it_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "s.db"
    (talk, first), (again, second), (replay, verdicts) = scenes()
    assert (talk, again, replay) == (["--session", "trip"], ["--session", "trip"], ["replay", "trip"])

    questions = [line[2:] for line in first if line.startswith("> ")]
    answer, beginning = said(first)
    with subprocess.Popen(
        [sys.executable, "-m", "niels_gpt.chat_cli", *talk, "--store", str(store)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as chat:  # fmt: skip
        assert chat.stdin is not None
        assert chat.stdout is not None
        chat.stdin.write("".join(f"{question}\n" for question in questions).encode())
        chat.stdin.flush()
        shown = b""
        while beginning.split()[0].encode() not in shown.partition(b"\n")[2]:
            shown += chat.stdout.read1()
        chat.send_signal(signal.SIGKILL)
    assert shown.decode().splitlines()[0] == answer

    (whole,) = said(second)
    assert whole.startswith(beginning)

    def run(*words: str) -> str:
        assert run_chat_cli([*words, "--store", str(store)]) == 0
        return capsys.readouterr().out

    monkeypatch.setattr(sys, "stdin", io.StringIO("/history\n"))
    run(*again)
    stored = " ".join(run("show", "trip").split())
    assert answer in stored
    assert whole in stored
    # A digest covers how each reply came about, the processor that it came from included.
    assert run(*replay).splitlines()[:-1] == verdicts[:-1]
    assert verdicts[-1].startswith("digest ")
