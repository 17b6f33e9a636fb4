"""An output that was interrupted is gone on with, and only then."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path

import pytest

from niels_gpt import generate_cli as command
from niels_gpt.cli.exit_codes import FAILED, INTERRUPTED
from niels_gpt.cli.generate.journal import Journal
from niels_gpt.cli.generate.progress import Progress
from niels_gpt.conversation.errors import ChatError


class StoppedError(Exception):
    """What ends a run in these tests."""


def interrupted(output: Path, results: list[str], job: str = "j") -> None:
    with contextlib.suppress(StoppedError), Journal(output, job=job) as journal:
        for text in results:
            journal.add(text)
        raise StoppedError


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out.txt"


@pytest.fixture
def beside(output: Path) -> Path:
    return output.with_name("out.txt.resume")


def test_what_was_done_is_not_done_again(output: Path, beside: Path):
    interrupted(output, ["one\n", "zwölf\n"])
    with Journal(output, job="j") as journal:
        assert journal.done == 2
        journal.add("three\n")
    assert output.read_text("utf-8") == "one\nzwölf\nthree\n"
    assert not beside.exists()


def test_half_of_a_result_is_cut_off(output: Path):
    interrupted(output, ["one\n"])
    with output.open("a") as file:
        file.write("tw")
    with Journal(output, job="j") as journal:
        journal.add("two\n")
    assert output.read_text() == "one\ntwo\n"


def test_half_of_a_mark_is_passed_over(output: Path, beside: Path):
    interrupted(output, ["one\n", "two\n"])
    beside.write_bytes(beside.read_bytes()[:-10])
    with Journal(output, job="j") as journal:
        assert journal.done == 1


def test_marks_that_the_disk_kept_without_their_bytes_do_not_count(output: Path):
    interrupted(output, ["one\n", "two\n"])
    output.write_bytes(b"one\n")
    with Journal(output, job="j") as journal:
        assert journal.done == 1


def test_it_can_be_interrupted_again_and_again(output: Path):
    for number in range(4):
        with contextlib.suppress(StoppedError), Journal(output, job="j") as journal:
            assert journal.done == number
            journal.add(f"{number}\n")
            raise StoppedError
    assert output.read_text() == "0\n1\n2\n3\n"


def test_another_job_does_not_go_on_with_it(output: Path):
    interrupted(output, ["one\n"])
    with pytest.raises(ChatError, match="other prompts or settings"), Journal(output, job="k"):
        pass
    assert output.read_text() == "one\n"


def test_a_changed_output_is_not_gone_on_with(output: Path):
    interrupted(output, ["one\n"])
    output.write_text("ONE\n")
    with pytest.raises(ChatError, match="was changed"), Journal(output, job="j"):
        pass


def test_a_whole_output_is_written_anew(output: Path):
    for text in ("one\n", "two\n"):
        with Journal(output, job="j") as journal:
            journal.add(text)
    assert output.read_text() == "two\n"


class InterruptedTerminal(io.StringIO):
    """A terminal in which ctrl-c is pressed when the bar moves for the third time."""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if text.startswith("\r[") and self.getvalue().count("\r[") == 2:
            raise KeyboardInterrupt
        return super().write(text)


def test_an_interrupted_command_goes_on_and_writes_what_it_would_have_written(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    prompts, output = tmp_path / "prompts.txt", tmp_path / "out.jsonl"
    prompts.write_text("\n".join(f"prompt {number}" for number in range(6)))
    words = ["--model", directory, "--prompts", prompts, "--output", output, "--max_new_tokens", 6]
    flags = [*map(str, words), "--num_samples", "2"]
    assert command.main(flags) == 0
    whole = output.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", InterruptedTerminal())
        assert command.main(flags) == INTERRUPTED
    assert len(output.read_bytes().splitlines()) == 6
    assert command.main([*flags, "--seed", "1"]) == FAILED
    capsys.readouterr()
    assert command.main(flags) == 0
    assert output.read_bytes() == whole
    assert "12 of 12 replies" in capsys.readouterr().err


def test_the_summary_counts_what_was_done_now(tmp_path: Path):
    seconds = iter([0.0, 2.0, 4.0])
    with (tmp_path / "log").open("w+") as stream:
        progress = Progress(10, stream, done=4, clock=lambda: next(seconds))
        progress.add(replies=6, tokens=100)
        progress.finish()
        stream.seek(0)
        assert stream.read() == "10 of 10 replies, 50 tokens/s\n"
