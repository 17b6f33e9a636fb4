"""An interrupted output is resumed, and no other output is changed."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path

import pytest

from niels_gpt import generate_cli as command
from niels_gpt.cli.exit_codes import FAILED, INTERRUPTED
from niels_gpt.cli.generate.input_file import open_input
from niels_gpt.cli.jobs import journal as journal_module
from niels_gpt.cli.jobs.journal import Journal, OutputError
from niels_gpt.cli.jobs.progress import Progress


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


def test_another_job_does_not_resume_it(output: Path):
    interrupted(output, ["one\n"])
    with pytest.raises(OutputError, match="other prompts or settings"), Journal(output, job="k"):
        pass
    assert output.read_text() == "one\n"


def test_a_changed_output_is_not_resumed(output: Path):
    interrupted(output, ["one\n"])
    output.write_text("ONE\n")
    with pytest.raises(OutputError, match="was changed"), Journal(output, job="j"):
        pass


def test_a_complete_output_is_replaced_only_by_force(output: Path):
    with Journal(output, job="j") as journal:
        journal.add("one\n")
    with pytest.raises(OutputError, match="exists; replace it with --force"), Journal(output, job="j"):
        pass
    assert output.read_text() == "one\n"
    with Journal(output, job="j", force=True) as journal:
        journal.add("two\n")
    assert output.read_text() == "two\n"


def test_each_result_is_in_the_file_when_add_returns(output: Path, beside: Path):
    with Journal(output, job="j") as journal:
        journal.add("one\n")
        assert output.read_text() == "one\n"
        assert json.loads(beside.read_bytes().splitlines()[-1])["done"] == 1


@pytest.mark.parametrize("head", [b"", b'{"job": "j"'])
def test_an_unfinished_first_line_is_no_first_line(output: Path, beside: Path, head: bytes):
    output.write_bytes(b"")
    beside.write_bytes(head)
    with Journal(output, job="j") as journal:
        assert journal.done == 0
        journal.add("one\n")
    assert output.read_text() == "one\n"


def test_the_first_line_is_there_before_the_output_grows(output: Path, beside: Path):
    with Journal(output, job="j"):
        assert output.read_bytes() == b""
        assert json.loads(beside.read_bytes())["job"] == "j"


def test_a_crash_while_a_run_resumes_loses_nothing(output: Path, monkeypatch: pytest.MonkeyPatch):
    interrupted(output, ["one\n", "two\n"])
    for where, name in ((journal_module, "atomic_write"), (Journal, "_mark")):
        with monkeypatch.context() as patched, contextlib.suppress(StoppedError):
            patched.setattr(where, name, stopped)
            with Journal(output, job="j") as journal:
                journal.add("three\n")
        with contextlib.suppress(StoppedError), Journal(output, job="j") as journal:
            assert journal.done == 2
            raise StoppedError


def stopped(*_: object, **__: object) -> None:
    raise StoppedError


def test_two_runs_do_not_write_one_output(output: Path):
    pytest.importorskip("fcntl")
    with Journal(output, job="j") as journal:
        journal.add("one\n")
        with pytest.raises(OutputError, match="being written by another process"), Journal(output, job="j"):
            pass
        journal.add("two\n")
    assert output.read_text() == "one\ntwo\n"


def test_a_changed_input_is_noticed(output: Path, tmp_path: Path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a\nb\nc\n")
    source = open_input(prompts)
    first = next(source.lines())
    with contextlib.suppress(StoppedError), Journal(output, job="j", source=source) as journal:
        journal.add("A\n", raw=first.raw, place=first.end)
        raise StoppedError
    with contextlib.suppress(StoppedError), Journal(output, job="j", source=open_input(prompts)) as journal:
        assert [line.text for line in source.lines(journal.place)] == ["b", "c"]
        raise StoppedError
    prompts.write_text("x\nb\nc\n")
    with (
        pytest.raises(OutputError, match="was changed"),
        Journal(output, job="j", source=open_input(prompts)),
    ):
        pass
    prompts.write_text("a\nb\nc\nd\n")
    with (
        pytest.raises(OutputError, match="other prompts"),
        Journal(output, job="j", source=open_input(prompts)),
    ):
        pass


def test_a_full_disk_is_an_error_of_the_output(output: Path, monkeypatch: pytest.MonkeyPatch):
    class Full(io.BytesIO):
        def flush(self) -> None:
            raise OSError(28, "No space left on device")

        def close(self) -> None: ...

    with Journal(output, job="j") as journal:
        real, journal._file = journal._file, Full()
        with pytest.raises(OSError, match="No space") as caught:
            journal.add("one\n")
        assert caught.value.filename == str(output)
        journal._file = real


class InterruptedTerminal(io.StringIO):
    """A terminal in which ctrl-c is pressed when the bar moves for the third time."""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if text.startswith("\r[") and self.getvalue().count("\r[") == 2:
            raise KeyboardInterrupt
        return super().write(text)


def test_an_interrupted_command_resumes_and_writes_the_same_bytes(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    prompts, output = tmp_path / "prompts.txt", tmp_path / "out.jsonl"
    prompts.write_text("\n".join(f"prompt {number}" for number in range(6)))
    words = ["--model", directory, "--prompts", prompts, "--output", output, "--max_new_tokens", 6]
    flags = [*map(str, words), "--num_samples", "2"]
    assert command.main(flags) == 0
    whole = output.read_bytes()
    output.unlink()
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
