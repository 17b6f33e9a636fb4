"""The conversation on the README's first screen: the shipped checkpoint says the same, and replays it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
README = (REPO / "README.md").read_text("utf-8")
SCREEN = re.search(r"^```\n(\$ niels-chat.*?)```", README, re.DOTALL | re.MULTILINE)
NOTICES = re.compile(r"new session|resume with|temperature: ")


def scenes() -> list[tuple[list[str], list[str], list[str]]]:
    """Give the words of each command, what was typed into it, and what it said."""
    assert SCREEN is not None
    found = []
    for part in re.split(r"^\$ ", SCREEN[1], flags=re.MULTILINE)[1:]:
        command, *lines = part.strip().splitlines()
        if lines[0].startswith("resumed"):
            lines = lines[3:]  # after that line the last exchange is shown again
        typed = [line[2:] for line in lines if line.startswith("> ")]
        said = [
            line for line in lines if not line.startswith(("> ", "temperature: ")) and not NOTICES.match(line)
        ]
        found.append((command.split(), typed, said))
    return found


def test_every_line_of_it_is_what_the_program_says(tmp_path: Path) -> None:
    for words, typed, said in scenes():
        done = subprocess.run(
            [sys.executable, "-m", "niels_gpt.chat_cli", *words[1:], "--store", str(tmp_path / "s.db")],
            input="".join(f"{line}\n" for line in typed), capture_output=True, text=True, timeout=60,
            check=True, cwd=REPO, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert without_digest(done.stdout.splitlines()) == without_digest(said)
    assert [words[1] for words, _, _ in scenes()] == ["--session", "--session", "replay"]


def without_digest(lines: list[str]) -> list[str]:
    """A digest covers how each reply came about, the processor that it came from included."""
    return [line for line in lines if not line.startswith("digest ")]
