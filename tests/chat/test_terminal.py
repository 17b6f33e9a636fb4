"""The program in a pseudo-terminal, seen through a screen model of 80 by 24."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest

pyte = pytest.importorskip("pyte")

SCRIPTED = [str(Path(__file__).with_name("scripted_program.py"))]
REAL = ["-m", "niels_gpt.chat_cli"]
CTRL_C, CTRL_D, ESC = "\x03", "\x04", "\x1b"


class Terminal:
    """A running program and what a user would see of it."""

    def __init__(self, words: list[str], state: Path, **environ: str) -> None:
        self.raw = ""
        self.screen = pyte.Screen(80, 24)
        self._stream = pyte.Stream(self.screen)
        self._program = pexpect.spawn(
            sys.executable,
            words,
            dimensions=(24, 80),
            encoding="utf-8",
            codec_errors="replace",
            env={
                **os.environ,
                "TERM": "xterm-256color",
                "PROMPT_TOOLKIT_NO_CPR": "1",  # pyte's screen does not answer
                "XDG_STATE_HOME": str(state),
                "OMP_NUM_THREADS": "1",
                **environ,
            },
        )

    def type(self, keys: str) -> None:
        self._program.send(keys)

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.screen.display if line.strip()]

    def wait(self, seen: Callable[[list[str]], bool]) -> list[str]:
        """Read until the screen is as wanted; fails with what is on it."""
        deadline = time.monotonic() + 40
        while not seen(self.lines):
            if time.monotonic() > deadline or not self._read():
                pytest.fail("the screen shows:\n" + "\n".join(self.lines))
        return self.lines

    def kill(self) -> None:
        """End the program as a crash does."""
        self._program.kill(signal.SIGKILL)
        self._program.wait()

    def end(self) -> int:
        """Read to the end and return the exit status."""
        while self._read():
            pass
        self._program.close()
        return self._program.exitstatus

    def close(self) -> None:
        self._program.close(force=True)

    def _read(self) -> bool:
        try:
            chunk = self._program.read_nonblocking(4096, timeout=40)
        except (pexpect.EOF, pexpect.TIMEOUT):
            return False
        self.raw += chunk
        self._stream.feed(chunk)
        return True


@contextlib.contextmanager
def running(words: list[str], folder: Path, **environ: str) -> Iterator[Terminal]:
    terminal = Terminal([*words, "--store", str(folder / "s.db")], folder / "state", **environ)
    try:
        yield terminal
    finally:
        terminal.close()


@pytest.fixture
def placeholder(tmp_path: Path) -> list[str]:
    """Flags that pass the check for a checkpoint; the scripted model never reads it."""
    (tmp_path / "any.pt").touch()
    return ["--ckpt", str(tmp_path / "any.pt")]


def test_a_conversation_with_a_stop_typed_ahead_keys_and_a_resume(
    tmp_path: Path, placeholder: list[str]
) -> None:
    with running([*SCRIPTED, *placeholder, "--session", "a"], tmp_path) as terminal:
        terminal.wait(lambda lines: lines[-1:] == [">"] and "new session 'a'" in lines)
        terminal.type("hi\r")
        terminal.wait(lambda lines: lines[-2:] == ["hello␛[31m there", ">"])
        terminal.type("sing\r")
        terminal.wait(lambda lines: any("la9 " in line for line in lines))
        terminal.type("typed ahead")
        terminal.type(CTRL_C)
        lines = terminal.wait(lambda lines: lines[-1] == "> typed ahead")
        assert lines[-2] == "(stopped)"
        terminal.type("\r")
        terminal.wait(lambda lines: lines[-2:] == ["fine", ">"])
        terminal.type(CTRL_D)
        assert terminal.end() == 0
        assert "resume with: niels-chat --session a --store" in " ".join(terminal.lines)
    with running([*SCRIPTED, *placeholder, "--session", "a"], tmp_path) as terminal:
        lines = terminal.wait(lambda lines: lines[-1:] == [">"] and len(lines) > 1)
        assert lines == ["resumed 'a': 7 messages", "> typed ahead", "fine", ">"]
        terminal.type("/history\r")
        lines = terminal.wait(lambda lines: lines[-3:] == ["> typed ahead", "fine", ">"] and "> hi" in lines)
        assert any(line.endswith("(stopped)") for line in lines)


def test_a_reply_interrupted_by_a_crash_is_finished_when_the_session_is_resumed(
    tmp_path: Path, placeholder: list[str]
) -> None:
    with running([*SCRIPTED, *placeholder, "--session", "a"], tmp_path) as terminal:
        terminal.wait(lambda lines: lines[-1:] == [">"] and "new session 'a'" in lines)
        terminal.type("hi\r")
        terminal.wait(lambda lines: lines[-2:] == ["hello␛[31m there", ">"])
        terminal.type("sing\r")
        terminal.wait(lambda lines: any("la9 " in line for line in lines))
        terminal.kill()
    with running([*SCRIPTED, *placeholder, "--session", "a"], tmp_path) as terminal:
        lines = terminal.wait(lambda lines: lines[-2:] == ["hello␛[31m there", ">"])
        assert lines == [
            "resumed 'a': 4 messages",
            "> sing",
            "(this reply was interrupted; finishing it)",
            "hello␛[31m there",
            ">",
        ]


def test_leaving_at_once_does_not_wait_for_the_model(tmp_path: Path, bpe_checkpoint: Path) -> None:
    with running([*REAL, "--ckpt", str(bpe_checkpoint)], tmp_path) as terminal:
        terminal.wait(lambda lines: lines[-1:] == [">"])
        terminal.type(CTRL_D)
        assert terminal.end() == 0
        assert terminal.lines == [">"]


def test_escape_stops_a_reply_and_completion_knows_the_commands(
    tmp_path: Path, placeholder: list[str]
) -> None:
    with running([*SCRIPTED, *placeholder], tmp_path) as terminal:
        terminal.wait(lambda lines: lines[-1:] == [">"])
        terminal.type("hi\r")
        terminal.wait(lambda lines: lines[-2:] == ["hello␛[31m there", ">"])
        terminal.type("sing\r")
        terminal.wait(lambda lines: any("la9 " in line for line in lines))
        terminal.type(ESC)
        terminal.wait(lambda lines: lines[-2:] == ["(stopped)", ">"])
        terminal.type("/max")
        terminal.wait(lambda lines: any(line.strip().startswith("/max_tokens") for line in lines))
        terminal.type("\t 9\r")
        terminal.wait(lambda lines: lines[-2:] == ["/max_tokens 9", ">"])
        terminal.type("/exit\r")
        assert terminal.end() == 0


def test_no_color_is_respected(tmp_path: Path, placeholder: list[str]) -> None:
    with running([*SCRIPTED, *placeholder, "--session", "a"], tmp_path, NO_COLOR="1") as terminal:
        terminal.wait(lambda lines: lines[-1:] == [">"] and "new session 'a'" in lines)
        terminal.type("/tmep\r")
        terminal.wait(lambda lines: any("did you mean /temp?" in line for line in lines))
        terminal.type(CTRL_D)
        assert terminal.end() == 0
    assert "\x1b[2m" not in terminal.raw
    assert "\x1b[3" not in terminal.raw.replace("\x1b[3J", "")


def test_a_dumb_terminal_gets_plain_lines(tmp_path: Path, placeholder: list[str]) -> None:
    with running([*SCRIPTED, *placeholder], tmp_path, TERM="dumb") as terminal:
        terminal.wait(lambda lines: lines[-1:] == [">"])
        for said, answered in (("hi", "hello␛[31m there"), ("/temp 1", "/temp 1")):
            terminal.type(f"{said}\r")
            lines = terminal.wait(lambda lines, end=[answered, ">"]: lines[-2:] == end)
            assert lines[-3] == f"> {said}"
        terminal.type(CTRL_D)
        assert terminal.end() == 0
    assert "\x1b" not in terminal.raw


def test_a_real_checkpoint_answers_in_a_real_terminal(tmp_path: Path, bpe_checkpoint: Path) -> None:
    words = [*REAL, "--ckpt", str(bpe_checkpoint), "--max-new-tokens", "5"]
    with running(words, tmp_path) as terminal:
        terminal.wait(lambda lines: lines[-1:] == [">"])
        # At once: the line waits for the model, not the user for the prompt.
        terminal.type("hello\r")
        terminal.wait(lambda lines: lines[0] == "> hello" and lines[-1] == ">" and len(lines) > 2)
        terminal.type(CTRL_D)
        assert terminal.end() == 0
        assert any(line.startswith("resume with: niels-chat --session chat-") for line in terminal.lines)
    assert list((tmp_path / "state" / "niels-gpt").iterdir())


def test_a_damaged_checkpoint_takes_the_prompt_down_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"PK\x03\x04 not really")
    with running([*REAL, "--ckpt", str(tmp_path / "x.pt")], tmp_path) as terminal:
        terminal.wait(lambda lines: lines[-1:] == [">"])
        assert terminal.end() == 1
        assert "is no checkpoint, or is damaged" in " ".join(terminal.lines)
        assert "Traceback" not in terminal.raw
