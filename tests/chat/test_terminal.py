"""The program in a pseudo-terminal, seen through a screen model: few starts, many behaviours in each."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest

from niels_gpt.cli.exit_codes import HUNG_UP, TERMINATED

pyte = pytest.importorskip("pyte")

SCRIPTED = [str(Path(__file__).with_name("scripted_program.py"))]
REAL = ["-m", "niels_gpt.chat_cli"]
FIRST = "> Ask something, or /help"  # an empty prompt before the first message
CTRL_C, CTRL_D, ESC = "\x03", "\x04", "\x1b"


class Terminal:
    """A running program and what a user would see of it, `columns` by 24."""

    def __init__(
        self, words: list[str], state: Path, *, columns: int, program: str = sys.executable, **environ: str
    ) -> None:
        self.raw = ""
        self.screen = pyte.Screen(columns, 24)
        self._stream = pyte.Stream(self.screen)
        self._program = pexpect.spawn(
            program,
            words,
            dimensions=(24, columns),
            encoding="utf-8",
            codec_errors="replace",
            env={
                **os.environ,
                "TERM": "xterm-256color",
                "XDG_STATE_HOME": str(state),
                "NIELS_CHAT_CONFIG": str(state / "config.toml"),
                "OMP_NUM_THREADS": "1",
                **environ,
            },
        )
        # pexpect waits 50 ms before each send by default, for programs that turn echo off late.
        self._program.delaybeforesend = None
        # The prompt asks where the cursor is, and draws no line at the bottom before it knows.
        self.screen.write_process_input = self._program.send
        self.modes = self._modes()

    def type(self, keys: str) -> None:
        self._program.send(keys)

    def resize(self, columns: int) -> None:
        self._program.setwinsize(24, columns)
        self.screen.resize(24, columns)

    def signal(self, number: int) -> None:
        self._program.kill(number)

    @property
    def lines(self) -> list[str]:
        """What is on the screen without the line at the bottom."""
        return [line.rstrip() for line in self.screen.display[:-1] if line.strip()]

    @property
    def bottom(self) -> str:
        return self.screen.display[-1].rstrip()

    def wait(self, seen: Callable[[list[str]], bool]) -> list[str]:
        """Read until the screen is as wanted; fails with what is on it."""
        deadline = time.monotonic() + 40
        while not seen(self.lines):
            if time.monotonic() > deadline or not self._read():
                pytest.fail("the screen shows:\n" + "\n".join(self.lines))
        return self.lines

    def wait_for_end(self, *end: str) -> list[str]:
        return self.wait(lambda lines: lines[-len(end) :] == list(end))

    def wait_for(self, text: str) -> list[str]:
        return self.wait(lambda lines: any(text in line for line in lines))

    def sing(self, keys: str, *, asked: str = "sing") -> None:
        """Send a message and wait until the reply to it, an endless one, has begun."""
        before = self.lines.count(f"> {asked}")
        self.type(f"{keys}\r")

        def began(lines: list[str]) -> bool:
            places = [n for n, line in enumerate(lines) if line == f"> {asked}"]
            return len(places) > before - (not keys) and "la9 " in " ".join(lines[places[-1] :])

        self.wait(began)

    def wait_for_keys(self) -> None:
        """Wait until keys go to the program: a dumb terminal's prompt is there before."""
        deadline = time.monotonic() + 40
        while self._modes() == self.modes:
            if time.monotonic() > deadline:
                pytest.fail("the program does not read keys")

    def kill(self) -> None:
        """End the program as a crash does."""
        self._program.kill(signal.SIGKILL)
        self._program.wait()

    def end(self) -> int:
        """Read to the end and return the exit status; the terminal must be as it was."""
        while self._read():
            pass
        assert self._modes() == self.modes
        self._program.close()
        return self._program.exitstatus

    def close(self) -> None:
        self._program.close(force=True)

    def _modes(self) -> list[int]:
        return termios.tcgetattr(self._program.child_fd)[:4]

    def _read(self) -> bool:
        try:
            chunk = self._program.read_nonblocking(4096, timeout=40)
        except (pexpect.EOF, pexpect.TIMEOUT):
            return False
        self.raw += chunk
        self._stream.feed(chunk)
        return True


@contextlib.contextmanager
def running(words: list[str], folder: Path, *, columns: int = 80, **environ: str) -> Iterator[Terminal]:
    terminal = Terminal(
        [*words, "--store", str(folder / "s.db")], folder / "state", columns=columns, **environ
    )
    try:
        yield terminal
    finally:
        terminal.close()


@pytest.fixture
def placeholder(tmp_path: Path) -> list[str]:
    """Flags that pass the check for a checkpoint; the scripted model never reads it."""
    (tmp_path / "any.pt").touch()
    return ["--ckpt", str(tmp_path / "any.pt")]


def test_a_long_evening_with_stops_a_crash_and_a_signal(tmp_path: Path, placeholder: list[str]) -> None:
    with running([*SCRIPTED, *placeholder, "--session", "a"], tmp_path) as terminal:
        terminal.wait_for_end("new session 'a'", FIRST)
        terminal.type("hi\r")
        # What the model says is data: its escape sequence is shown and not obeyed.
        terminal.wait_for_end("hello␛[31m there", ">")
        terminal.wait(lambda _: terminal.bottom.startswith("a | "))
        assert "/1000000 tokens | any.pt | temp 0.9" in terminal.bottom
        terminal.sing("sing")
        terminal.type("typed ahead")
        terminal.type(CTRL_C)
        terminal.wait_for_end("(stopped)", "> typed ahead")
        terminal.type("\r")
        terminal.wait_for_end("fine", ">")
        terminal.sing("sing")
        terminal.type(ESC)
        terminal.wait_for_end("(stopped)", ">")
        terminal.type("/max")
        terminal.wait(lambda lines: any(line.strip().startswith("/max_new_tokens") for line in lines))
        terminal.type("\t 9\r")
        terminal.wait_for_end("max_new_tokens: 9, was 256", ">")
        terminal.type("two\x1b\rlines")
        terminal.wait_for_end("> two", "  lines")
        terminal.type("\r")
        terminal.wait_for_end("fine", ">")
        # A suggestion from what was typed before stands behind the cursor until it is taken.
        terminal.type("typed")
        terminal.wait_for_end("> typed ahead")
        terminal.type("\x05 again")
        terminal.wait_for_end("> typed ahead again")
        terminal.sing("", asked="typed ahead again")
        terminal.kill()
    with running([*SCRIPTED, *placeholder, "--session", "a"], tmp_path) as terminal:
        lines = terminal.wait_for_end("hello␛[31m there", ">")
        assert lines == [
            "resumed 'a': 6 turns",
            "> typed ahead again",
            "(this reply was interrupted; finishing it)",
            "hello␛[31m there",
            ">",
        ]
        terminal.type("/resume ")
        terminal.wait(lambda lines: lines[-2] == "> /resume" and lines[-1].strip() == "a")
        terminal.sing("\x15sing")
        terminal.signal(signal.SIGTERM)
        assert terminal.end() == TERMINATED
        assert "resume with: niels-chat --session a --store" in " ".join(terminal.lines)
    from sessions import open_store  # noqa: PLC0415

    with open_store(tmp_path / "s.db") as store:
        said = store.path(store.session("a").id)
    assert [each.status for each in said if each.content.startswith("la0")] == ["cancelled"] * 3
    assert [each.content for each in said if "two" in each.content] == ["two\nlines"]


def test_a_narrow_terminal_without_colour_that_changes_its_width_and_hangs_up(
    tmp_path: Path, placeholder: list[str]
) -> None:
    words = [*SCRIPTED, *placeholder, "--session", "a"]
    with running(words, tmp_path, columns=40, NO_COLOR="1") as terminal:
        terminal.wait_for_end("new session 'a'", FIRST)
        terminal.type("/tmep\r")
        terminal.wait(lambda lines: "did you mean /temp?" in " ".join(lines))
        terminal.type("hi\r")
        terminal.wait_for_end("hello␛[31m there", ">")
        terminal.type("sing\r")
        lines = terminal.wait_for("la29 ")
        first = lines.index("> sing") + 1
        assert lines[first] == "la0 la1 la2 la3 la4 la5 la6 la7 la8 la9"
        assert all(len(line) < 40 and line.startswith("la") for line in lines[first:])
        terminal.resize(30)
        lines = terminal.wait_for("la99 ")
        assert all(re.fullmatch(r"(la\d+ ?)+", line) and len(line) < 30 for line in lines[-3:-1])
        terminal.signal(signal.SIGHUP)
        assert terminal.end() == HUNG_UP
    styles = set(re.findall(r"\x1b\[([0-9;]*)m", terminal.raw))
    assert not {"2", "31", "36"} & styles
    assert not any(code.startswith(("3", "4", "38", "48")) for code in styles)


def test_a_dumb_terminal_gets_plain_lines(tmp_path: Path, placeholder: list[str]) -> None:
    with running([*SCRIPTED, *placeholder], tmp_path, TERM="dumb") as terminal:
        terminal.wait_for_end(">")
        # Some dumb terminals end a line with a newline.
        for said, answered in (("hi\r", "hello␛[31m there"), ("/temp 1\n", "temperature: 1, was 0.9")):
            terminal.wait_for_keys()
            terminal.type(said)
            lines = terminal.wait_for_end(answered, ">")
            # Between the two stands, once, that a store was created.
            assert f"> {said.strip()}" in lines[-5:]
        terminal.wait_for_keys()
        terminal.type(CTRL_D)
        assert terminal.end() == 0
    assert "\x1b" not in terminal.raw


def test_leaving_at_once_does_not_wait_for_the_model(tmp_path: Path, bpe_checkpoint: Path) -> None:
    with running([*REAL, "--ckpt", str(bpe_checkpoint)], tmp_path) as terminal:
        terminal.wait_for_end(FIRST)
        terminal.type(CTRL_D)
        assert terminal.end() == 0
        assert terminal.lines[0].startswith("niels-gpt: bpe.pt answers, on this machine")
        assert terminal.lines[1:] == [
            "type a message and Enter; /help lists the commands, Ctrl-D leaves",
            ">",
        ]


def test_a_real_checkpoint_answers_in_a_real_terminal(tmp_path: Path, bpe_checkpoint: Path) -> None:
    words = [*REAL, "--ckpt", str(bpe_checkpoint), "--max-new-tokens", "5"]
    with running(words, tmp_path) as terminal:
        terminal.wait_for_end(FIRST)
        # At once: the line waits for the model, not the user for the prompt.
        terminal.type("hello\r")
        terminal.wait(lambda lines: lines[2] == "> hello" and lines[-1] == ">" and len(lines) > 2)
        terminal.type("/replay\r")
        terminal.wait_for("exact: 1 turn, 5 tokens")
        terminal.wait_for_end(">")
        terminal.resize(44)
        terminal.type("/why\r")
        *_, header, first, second, third, fourth, fifth, _legend, _same, _prompt = terminal.wait_for_end(
            "matches the recording", ">"
        )
        assert header.startswith("      token ")
        rows = [first, second, third, fourth, fifth]
        assert [row.split()[0] for row in rows] == ["0", "1", "2", "3", "4"]
        terminal.type(CTRL_D)
        assert terminal.end() == 0
        assert any(line.startswith("resume with: niels-chat --session hello") for line in terminal.lines)
    assert list((tmp_path / "state" / "niels-gpt").iterdir())


def test_in_a_shell_early_lines_suspension_paste_branches_personas_and_files(
    tmp_path: Path, placeholder: list[str]
) -> None:
    state = tmp_path / "state"
    (state / "personas").mkdir(parents=True)
    (state / "personas" / "poet.toml").write_text('system = "Rhyme."\ntemperature = 0.5\n', encoding="utf-8")
    (tmp_path / "notes.txt").write_text("all that is known", encoding="utf-8")
    program = shlex.join([sys.executable, *SCRIPTED, *placeholder, "--store", str(tmp_path / "s.db")])
    words = ["--norc", "--noprofile", "-i"]
    terminal = Terminal(words, state, columns=80, program="bash", PS1="$ ", CHAT=f"{program} --session a")
    with contextlib.closing(terminal):
        terminal.wait_for_end("$")
        # The second line is typed while the program starts, before there is a prompt.
        terminal.type("clear; $CHAT\rearly line\r")
        lines = terminal.wait_for_end("hello␛[31m there", ">")
        assert lines.index("> early line") < lines.index("(new session 'a')")
        assert lines.count("> early line") == 1
        terminal.sing("sing")
        assert terminal.bottom.endswith("| Esc stops")
        terminal.type("\x1a")
        terminal.wait_for_end("$")
        terminal.type("clear; echo modes $(stty -a | grep -c ' icanon'); fg\r")
        terminal.wait(lambda lines: lines[:1] == ["modes 1"] and re.search(r"la\d+ la\d+", lines[-1]))
        terminal.resize(60)
        terminal.wait(lambda _: terminal.bottom.endswith(" any.pt | Esc stops"))
        terminal.resize(80)
        terminal.wait(lambda _: terminal.bottom.endswith(" any.pt | temp 0.9 | Esc stops"))
        terminal.type(ESC)
        terminal.wait_for_end("(stopped)", ">")
        terminal.wait(lambda _: terminal.bottom.startswith("a | "))
        terminal.type("\x1b[200~one\ntwo\x1b[201~")
        terminal.wait_for_end("> one", "  two")
        terminal.type("\r")
        terminal.wait_for_end("fine", ">")
        terminal.type("\x0c/undo\r")
        terminal.wait_for_end("back to before 'one two'; /redo brings it back", ">")
        terminal.type("/redo\r")
        terminal.wait_for_end("> /redo", "> one", "  two", "fine", ">")
        terminal.type("/goto 3\r")
        terminal.wait_for_end("> /goto 3", "> early line", "hello␛[31m there", ">")
        terminal.type("/persona po")
        terminal.wait(lambda lines: lines[-1].strip() == "poet")
        terminal.type("\t\r")
        terminal.wait_for_end("temperature: 0.5, was 0.9", "persona 'poet', from the next message on", ">")
        terminal.wait(lambda _: terminal.bottom.endswith("temp 0.5"))
        terminal.type(f"/read {tmp_path}/notes.txt\r")
        terminal.wait_for_end("with your next message: notes.txt (17 bytes)", ">")
        terminal.resize(60)
        terminal.sing("sing")
        terminal.type(CTRL_C)
        terminal.wait_for_end("(stopped)", ">")
        assert all(len(line) <= 60 for line in terminal.lines)
        terminal.type("\x0c/history\r")
        terminal.wait(lambda lines: "(system) Rhyme." in lines and lines[-2:] == ["(stopped)", ">"])
        assert {"(system) Rhyme.", "> early line", "> sing", "  [notes.txt (18 bytes)]"} <= set(
            terminal.lines
        )
        terminal.type(CTRL_D)
        terminal.wait_for_end("$")
    # The user's lines have a colour, the model's none.
    assert "\x1b[36m> early line" in terminal.raw
    assert "\x1b[36mhello" not in terminal.raw
