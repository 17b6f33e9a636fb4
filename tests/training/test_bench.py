"""The benchmark of training runs and prints what it measures; no number is judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import train


def test_the_training_benchmark_times_the_trainer_beside_a_plain_loop(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "numbers.json"
    assert train.main(["--quick", "--threads", "1", "--json", str(file)]) == 0
    assert "| plain loop |" in capsys.readouterr().out
    (report,) = json.loads(file.read_text())["reports"]
    assert {"plain loop", "trainer, float32", "trainer, bfloat16"} == set(report["tokens_per_second"])
