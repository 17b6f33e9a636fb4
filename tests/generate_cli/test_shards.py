"""The outputs of any number of shards, killed or not, merge into the output of one process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from niels_gpt.cli.generate.input_file import open_input
from niels_gpt.cli.jobs.journal import Journal, Place
from niels_gpt.cli.jobs.shards import part_of
from niels_gpt.generate_cli import main

TEXT = "\n".join(
    ["", *(f"prompt {n} {'x' * (n % 7)}" for n in range(11)), "", "the last one, without an end"]
)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture
def run(directory: Path, prompts: Path, tmp_path: Path) -> Callable[..., int]:
    def call(*words: object) -> int:
        flags = [
            "--model",
            directory,
            "--prompts",
            prompts,
            "--max_new_tokens",
            3,
            "--num_samples",
            2,
            *words,
        ]
        return main(list(map(str, flags)))

    return call


@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_the_parts_of_a_file_are_its_lines_each_once(prompts: Path, count: int):
    whole = list(open_input(prompts).lines())
    parts = [open_input(prompts).shard(number, count) for number in range(count)]
    found = [(line.text, line.number, line.end) for part in parts for line in part.lines()]
    assert found == [(line.text, line.number, line.end) for line in whole]
    firsts = [part.is_first for part in parts if next(part.lines(), None) is not None]
    assert firsts == [True, *[False] * (len(firsts) - 1)]


@pytest.mark.parametrize("form", ["text", "jsonl"])
def test_merged_shards_are_the_bytes_of_one_process(run, tmp_path: Path, form: str):
    whole, output = tmp_path / "whole", tmp_path / "out"
    assert run("--output", whole, "--format", form) == 0
    for count in (2, 20):
        for number in reversed(range(count)):
            assert run("--output", output, "--shard", f"{number}/{count}", "--format", form) == 0
        assert main(["--merge", "--output", str(output), "--force"]) == 0
        assert output.read_bytes() == whole.read_bytes()
        for path in tmp_path.glob("out.*-of-*"):
            path.unlink()


def test_a_part_is_finished_once_and_merged_only_when_all_are(
    run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    output = tmp_path / "out.jsonl"
    merge = ["--merge", "--output", str(output)]
    assert main(merge) == 1
    assert "there are no shards" in capsys.readouterr().err
    assert run("--output", output, "--shard", "0/2") == 0
    assert main(merge) == 1
    assert "out.jsonl.1-of-2' is not finished" in capsys.readouterr().err
    before = part_of(output, 0, 2).read_bytes()
    assert run("--output", output, "--shard", "0/2") == 0
    assert "is complete already" in capsys.readouterr().err
    assert part_of(output, 0, 2).read_bytes() == before
    assert run("--output", output, "--shard", "1/2", "--seed", "9") == 0
    assert main(merge) == 1
    assert "different models, inputs or settings" in capsys.readouterr().err
    assert not output.exists()


KILLED = """
import os, sys
from niels_gpt.cli.jobs.journal import Journal, Place
from niels_gpt.generate_cli import main
add, left = Journal.add, [int(sys.argv[1])]
def add_and_die(self, *arguments, **keywords):
    add(self, *arguments, **keywords)
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), 9)
Journal.add = add_and_die
sys.exit(main(sys.argv[2:]))
"""


def test_a_killed_worker_resumes_where_it_was(
    run, directory: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole, output = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    assert run("--output", whole) == 0
    flags = ["--model", directory, "--prompts", prompts, "--max_new_tokens", 3, "--num_samples", 2]
    flags += ["--output", output, "--shard", "0/1"]
    command = [sys.executable, "-c", KILLED, "4", *map(str, flags)]
    assert subprocess.run(command, check=False, capture_output=True).returncode == -9
    lines, add = [], Journal.add

    def recorded(self: Journal, text: str, *, raw: bytes, place: Place) -> None:
        lines.append(place.line)
        add(self, text, raw=raw, place=place)

    monkeypatch.setattr(Journal, "add", recorded)
    assert run("--output", output, "--shard", "0/1") == 0
    assert lines[0] == 6  # four prompts after a blank line are done
    assert main(["--merge", "--output", str(output)]) == 0
    assert output.read_bytes() == whole.read_bytes()
