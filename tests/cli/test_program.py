"""The error boundary that every command shares: each way to end is one line and a status."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from niels_gpt.errors import NielsGptError, ReportedError
from niels_gpt.program import BROKEN_PIPE, FAILED, INTERNAL, INTERRUPTED, OK, USAGE, report, run


class UnspeakableError(Exception):
    """An exception whose description fails."""

    def __str__(self) -> str:
        raise IndexError("no such argument")


def ended(capsys: pytest.CaptureFixture[str], error: BaseException, **options: object) -> tuple[int, str]:
    def work() -> int:
        raise error

    status = run("prog", work, **options)  # type: ignore[arg-type]
    printed = capsys.readouterr()
    assert printed.out == ""
    return status, printed.err


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (NielsGptError("the setting\nis 'x'"), "the setting is 'x'"),
        (ReportedError("escape \x1b[2J"), r"escape \x1b[2J"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a.pt"), "'a.pt': no such file"),
        (
            OSError(errno.EXDEV, "Invalid cross-device link", "a", None, "b"),
            "'a' to 'b': invalid cross-device link",
        ),
        (OSError(errno.EIO, "Input/output error"), "input/output error"),
        (OSError("odd"), "odd"),
        (
            RuntimeError("CPU: can't allocate memory: 4 TB"),
            "out of memory (CPU: can't allocate memory: 4 TB)",
        ),
        (MemoryError(), "out of memory"),
        (
            UnicodeDecodeError("utf-8", b"caf\xe9", 3, 4, "unexpected end"),
            "text that is not valid UTF-8 at position 3: unexpected end",
        ),
        (
            ModuleNotFoundError("No module named 'numba'"),
            "a library cannot be imported; install niels-gpt again: No module named 'numba'",
        ),
    ],
)
def test_what_a_user_or_a_machine_can_cause_is_one_line_and_status_1(
    capsys: pytest.CaptureFixture[str], error: BaseException, line: str
) -> None:
    assert ended(capsys, error) == (FAILED, f"prog: {line}\n")


@pytest.mark.parametrize(
    "error", [KeyError("x"), RuntimeError("odd"), ValueError("odd"), AssertionError(), UnspeakableError()]
)
def test_a_bug_is_an_internal_error_with_a_status_of_its_own(
    capsys: pytest.CaptureFixture[str], error: BaseException
) -> None:
    status, line = ended(capsys, error)
    assert status == INTERNAL
    assert line.startswith(f"prog: internal error: {type(error).__name__}")
    assert line.endswith("(NIELS_DEBUG=1 shows the traceback)\n")
    assert line.count("\n") == 1


def test_a_program_can_name_further_classes_and_its_status(capsys: pytest.CaptureFixture[str]) -> None:
    found = ended(capsys, ValueError("B is 0"), failed=2, expected=lambda: (ValueError,))
    assert found == (2, "prog: B is 0\n")


def test_the_traceback_is_shown_when_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIELS_DEBUG", "1")
    status, lines = ended(capsys, KeyError("x"))
    assert (status, "Traceback" in lines, "in work" in lines) == (INTERNAL, True, True)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (SystemExit(USAGE), USAGE),
        (SystemExit(None), OK),
        (SystemExit("said by argparse"), FAILED),
        (KeyboardInterrupt(), INTERRUPTED),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), BROKEN_PIPE),
    ],
)
def test_an_end_that_was_asked_for_prints_nothing(
    capsys: pytest.CaptureFixture[str], error: BaseException, status: int
) -> None:
    assert ended(capsys, error) == (status, "")


def test_of_a_group_the_bug_is_reported_and_not_the_expected_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected, bug = ReportedError("the disk is full"), KeyError("x")
    inner = BaseExceptionGroup("inner", [expected])
    assert ended(capsys, BaseExceptionGroup("outer", [inner])) == (FAILED, "prog: the disk is full\n")
    assert ended(capsys, BaseExceptionGroup("outer", [inner, bug]))[0] == INTERNAL


def in_a_shell(redirection: str, *words: str) -> tuple[int, str, str]:
    """Run a command of this project with a redirection of its streams."""
    line = f'exec "$@" {redirection}'
    done = subprocess.run(
        ["/bin/sh", "-c", line, "sh", sys.executable, "-m", *words],
        capture_output=True, text=True, check=False, timeout=50,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


HELD_OUT = ("niels_gpt.train.evaluate", "--help")


def test_an_error_on_a_terminal_is_wrapped_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal, said = Terminal(), "the file '/a/path/that/is/long' is not an archive of tensors; copy it again"
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "40")
    report("prog", said)
    lines = terminal.getvalue().splitlines()
    assert " ".join(lines) == f"prog: {said}"
    assert all(len(line) <= 40 for line in lines)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_standard_output_is_one_line() -> None:
    status, _, errors = in_a_shell("> /dev/full", *HELD_OUT)
    assert (status, errors) == (
        FAILED,
        "niels_gpt.train.evaluate: cannot write standard output: no space left on device\n",
    )


@pytest.mark.skipif(os.name != "posix", reason="needs a shell that closes descriptors")
def test_a_closed_standard_output_is_one_line_and_no_file_takes_its_number() -> None:
    status, _, errors = in_a_shell(">&-", *HELD_OUT)
    assert (status, errors) == (FAILED, "niels_gpt.train.evaluate: standard output is closed\n")


@pytest.mark.skipif(os.name != "posix", reason="needs a shell that closes descriptors")
@pytest.mark.parametrize("redirection", ["2>&-", "2> /dev/full", "<&- 2>&-"])
def test_a_standard_error_that_takes_nothing_changes_nothing_else(redirection: str) -> None:
    status, output, _ = in_a_shell(redirection, "niels_gpt.chat_cli", "config")
    assert (status, output.startswith("KEY")) == (OK, True)
