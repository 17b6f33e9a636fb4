"""How long from Ctrl-C until the prompt is back, while a slow model answers.

    python -m bench.interrupt [--times N] [--step SECONDS]

The real program in a pseudo-terminal, over a model that computes every token for `--step` seconds without
looking up; the keys come at random moments. In that time the step ends, the reply is stored durably as
cancelled and the prompt is drawn. Beside it: the same with nothing to stop, an empty line at the prompt.
Exits with 1 if the 99th percentile is above a quarter of a second.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect

from niels_gpt.chat import app
from niels_gpt.cli.exit_codes import run_to_status
from niels_gpt.cli.options import parse_options
from niels_gpt.conversation.options import ChatOptions
from niels_gpt.conversation.workspace import Workspace
from niels_gpt.paths import REPO_ROOT
from tests.chat.scripted_model import ScriptedModel

PROMISED_SECONDS = 0.25
CTRL_C = "\x03"
# What prompt-toolkit sends last when it shows a prompt: keys are read from here on.
PROMPT = r"\x1b\[\?2004h"


def percentile(values: list[float], percent: int) -> float:
    """Return the smallest value that at least `percent` of the values do not exceed."""
    return sorted(values)[max(0, -(-len(values) * percent // 100) - 1)]


def slow(seconds: float) -> Iterator[str]:
    """Yield one word per step, endlessly."""
    for number in itertools.count():
        time.sleep(seconds)
        yield f"word{number} "


def serve(seconds: float, words: list[str]) -> int:
    """Run the program over the slow model."""

    def make(options: ChatOptions) -> Workspace:
        replies = (slow(seconds) for _ in itertools.count())
        model: Any = ScriptedModel(replies, context_length=10**6)
        return Workspace(options, load_model=lambda _: model)

    return run_to_status("niels-chat", lambda: app.run(parse_options(words), make_workspace=make))


class Chat:
    """The program in a pseudo-terminal."""

    def __init__(self, step: float, folder: Path) -> None:
        (folder / "any.pt").touch()
        words = ["--ckpt", str(folder / "any.pt"), "--store", str(folder / "s.db"), "--session", "a"]
        self.program = pexpect.spawn(
            sys.executable,
            ["-m", "bench.interrupt", "--serve", str(step), *words],
            dimensions=(24, 80),
            encoding="utf-8",
            timeout=60,
            cwd=str(REPO_ROOT),
            env={
                **os.environ,
                "TERM": "xterm-256color",
                "PROMPT_TOOLKIT_NO_CPR": "1",
                "XDG_STATE_HOME": str(folder),
            },
        )
        self.program.delaybeforesend = None
        self.program.expect("new session")
        self.program.expect(PROMPT)

    def until_prompt(self, keys: str) -> float:
        """Send keys and return the seconds until the next prompt."""
        started = time.perf_counter()
        self.program.send(keys)
        self.program.expect(PROMPT)
        return time.perf_counter() - started

    def interrupted(self, delay: float) -> float:
        """Ask, stop `delay` seconds after the first word, and return the seconds until the prompt."""
        self.program.send("go on\r")
        self.program.expect("word0")
        time.sleep(delay)
        return self.until_prompt(CTRL_C)


def main() -> int:
    """Measure, print the table, and say whether the promise holds."""
    if sys.argv[1:2] == ["--serve"]:
        return serve(float(sys.argv[2]), sys.argv[3:])
    parser = argparse.ArgumentParser(description="Measure how soon Ctrl-C comes back to the prompt.")
    parser.add_argument("--times", type=int, default=300)
    parser.add_argument("--step", type=float, default=0.05, help="seconds that a token takes (default: 0.05)")
    flags = parser.parse_args()
    dice = random.Random(1)
    with tempfile.TemporaryDirectory() as name:
        chat = Chat(flags.step, Path(name))
        rows = {
            "an empty line": [chat.until_prompt("\r") for _ in range(flags.times)],
            "Ctrl-C in a reply": [
                chat.interrupted(dice.uniform(0, 2 * flags.step)) for _ in range(flags.times)
            ],
        }
        chat.program.close(force=True)
    print(
        f"{flags.times} times each, a token takes {flags.step} s, {os.cpu_count()} cores; "
        "seconds until the prompt is back"
    )
    print("| what | median | p99 | most |")
    print("|---|---|---|---|")
    for label, seconds in rows.items():
        middle, late = percentile(seconds, 50), percentile(seconds, 99)
        print(f"| {label} | {middle:.3f} | {late:.3f} | {max(seconds):.3f} |")
    kept = percentile(rows["Ctrl-C in a reply"], 99) <= PROMISED_SECONDS
    print(f"promised: p99 within {PROMISED_SECONDS} s: {'kept' if kept else 'broken'}")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
