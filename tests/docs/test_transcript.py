"""The conversation on the README's first screen: killed, resumed and replayed, with the replies it shows."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
README = (REPO / "README.md").read_text("utf-8")
SCREEN = re.search(r"^```\n(\$ niels-chat.*?)```", README, re.DOTALL | re.MULTILINE)
NOTICES = re.compile(r"new session|resumed|\(this reply|resume with|Killed|/exit")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def scenes() -> list[tuple[list[str], list[str]]]:
    """Give the words of each command, and the lines under it."""
    assert SCREEN is not None
    parts = re.split(r"^\$ ", SCREEN[1], flags=re.MULTILINE)[1:]
    return [(part.splitlines()[0].split()[1:], part.strip().splitlines()[1:]) for part in parts]


def command(words: list[str], store: Path) -> list[str]:
    return [sys.executable, "-m", "niels_gpt.chat_cli", *words, "--store", str(store)]


def said(lines: list[str]) -> list[str]:
    return [line for line in lines if not line.startswith("> ") and not NOTICES.match(line)]


def test_a_killed_conversation_resumes_and_replays_as_it_is_shown(tmp_path: Path) -> None:
    store = tmp_path / "s.db"
    (talk, first), (again, second), (replay, verdicts) = scenes()
    assert (talk, again, replay) == (["--session", "trip"], ["--session", "trip"], ["replay", "trip"])

    questions = [line[2:] for line in first if line.startswith("> ")]
    answer, beginning = said(first)
    with subprocess.Popen(
        command(talk, store), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=ENVIRONMENT, cwd=REPO,
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
    subprocess.run(
        command(again, store), input=b"/history\n", check=True, capture_output=True, env=ENVIRONMENT, cwd=REPO
    )
    show = ["show", "trip"]
    done = subprocess.run(command(show, store), check=True, capture_output=True, text=True, env=ENVIRONMENT)
    stored = " ".join(done.stdout.split())
    assert answer in stored
    assert whole in stored
    done = subprocess.run(
        command(replay, store), check=True, capture_output=True, text=True, env=ENVIRONMENT, cwd=REPO
    )
    # A digest covers how each reply came about, the processor that it came from included.
    assert done.stdout.splitlines()[:-1] == verdicts[:-1]
    assert verdicts[-1].startswith("digest ")
