"""Measure the time until `niels-chat` is ready and until it answers, compared with an import of torch.

    python bench/startup.py [--ckpt PATH] [--runs N]

Everything is measured in one run, interleaved, on a warm file cache, as medians. "Prompt" is the time until
the prompt is on the screen of a pseudo-terminal and has echoed a key; "first token" until the first
character of a reply to a line that was typed before the model was loaded. "One question" is `niels-chat -p`:
the time until the first byte of the reply, and the processor time of the whole program.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pexpect

from niels_gpt.paths import REPO_ROOT, SHIPPED_CHECKPOINT

CHAT = ["-m", "niels_gpt.chat_cli"]
ECHO = "q"


def python(*words: str) -> float:
    """Return the seconds that a whole Python process takes."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, capture_output=True, cwd=REPO_ROOT)
    return time.perf_counter() - started


class Chat:
    """`niels-chat` in a pseudo-terminal, its sessions in a folder that is thrown away."""

    def __init__(self, checkpoint: Path, folder: Path) -> None:
        self.started = time.perf_counter()
        self.program = pexpect.spawn(
            sys.executable,
            # Quiet: what turns while the model loads would be taken for the reply.
            [*CHAT, "--quiet", "--ckpt", str(checkpoint), "--store", str(folder / "sessions.db")],
            dimensions=(24, 80),
            encoding="utf-8",
            codec_errors="replace",
            timeout=120,
            cwd=str(REPO_ROOT),
            env={
                **os.environ,
                "TERM": "xterm-256color",
                "PROMPT_TOOLKIT_NO_CPR": "1",
                "XDG_STATE_HOME": str(folder),
                "NO_COLOR": "1",
            },
        )
        # pexpect waits 50 ms before each send by default, for programs that turn echo off late.
        self.program.delaybeforesend = None

    def seconds(self) -> float:
        """Return the seconds since the start."""
        return time.perf_counter() - self.started

    def end(self) -> None:
        """Kill the program."""
        self.program.close(force=True)


def until_prompt(checkpoint: Path, folder: Path) -> float:
    """Return the seconds until the prompt shows a key that was typed at it."""
    chat = Chat(checkpoint, folder)
    chat.program.expect_exact(">")
    chat.program.send(ECHO)
    chat.program.expect_exact(ECHO)
    seconds = chat.seconds()
    chat.end()
    return seconds


def until_first_token(checkpoint: Path, folder: Path) -> float:
    """Return the seconds until the first character of the reply to a line that is typed at once."""
    chat = Chat(checkpoint, folder)
    chat.program.expect_exact(">")
    chat.program.send("hello\r")
    # After the line come the terminal's own sequences and line ends; then whatever is printed is the reply.
    chat.program.expect_exact("hello")
    chat.program.expect(r"\x1b\[\?2004l")
    chat.program.expect(r"[^\s\x1b]")
    seconds = chat.seconds()
    chat.end()
    return seconds


QUESTION = "what is a kv cache"


def question(checkpoint: Path, folder: Path) -> subprocess.Popen[bytes]:
    """Start a program that answers one question, in a session of its own."""
    words = [sys.executable, *CHAT, "--quiet", "--ckpt", str(checkpoint), "--store", str(folder / "asked.db")]
    return subprocess.Popen(
        [*words, "-p", QUESTION], cwd=REPO_ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )


def until_reply(checkpoint: Path, folder: Path) -> float:
    """Return the seconds until the first byte of the reply to one question."""
    started = time.perf_counter()
    with question(checkpoint, folder) as program:
        assert program.stdout is not None  # noqa: S101 - it is a pipe
        program.stdout.read(1)
        seconds = time.perf_counter() - started
        program.stdout.read()
    return seconds


def processor_seconds(checkpoint: Path, folder: Path) -> float:
    """Return the processor time of one question, to its end."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with question(checkpoint, folder) as program:
        program.communicate()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description="Measure the start of niels-chat.")
    parser.add_argument("--ckpt", type=Path, default=SHIPPED_CHECKPOINT)
    parser.add_argument("--runs", type=int, default=7)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows: dict[str, Callable[[], float]] = {
            "python -c pass": lambda: python("-c", "pass"),
            "python -c 'import torch'": lambda: python("-c", "import torch"),
            "niels-chat --help": lambda: python(*CHAT, "--help"),
            "niels-chat, usable prompt": lambda: until_prompt(flags.ckpt, folder),
            "niels-chat, first token of a line typed at once": lambda: until_first_token(flags.ckpt, folder),
            "one question, first byte of the reply": lambda: until_reply(flags.ckpt, folder),
            "one question, processor time": lambda: processor_seconds(flags.ckpt, folder),
        }
        times: dict[str, list[float]] = {label: [] for label in rows}
        for measure in rows.values():
            measure()  # fills the file cache
        for _ in range(flags.runs):
            for label, measure in rows.items():
                times[label].append(measure())
    torch_import = statistics.median(times["python -c 'import torch'"])
    print(
        f"medians of {flags.runs} runs, {os.cpu_count()} cores, Python {sys.version.split()[0]}, {flags.ckpt}"
    )
    print("| what | seconds | least | most | of an import of torch |")
    print("|---|---|---|---|---|")
    for label, seconds in times.items():
        median = statistics.median(seconds)
        spread = f"{min(seconds):.3f} | {max(seconds):.3f}"
        print(f"| {label} | {median:.3f} | {spread} | {median / torch_import:.2f} |")


if __name__ == "__main__":
    main()
