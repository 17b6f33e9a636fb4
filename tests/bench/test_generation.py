"""The benchmarks of generation run and print what they measure; no time is judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import bdh, inference


def test_the_state_benchmark_shows_each_length_and_draws_it(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert bdh.main(["--quick", "--plot", str(tmp_path / "state.svg")]) == 0
    lines = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    sizes = [line[3].strip() for line in lines[2:]]
    assert sizes == ["4"] * 3  # of the state, in KiB, at every length
    assert (tmp_path / "state.svg").read_text().startswith("<?xml")


def test_the_batch_benchmark_finds_the_same_texts_in_every_way(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("one\nand two\n")
    assert inference.main(["--quick", "--prompts", str(prompts)]) == 0
    out = capsys.readouterr().out
    assert "2 prompts x 3" in out
    assert "0 of 6" in out
