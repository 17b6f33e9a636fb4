from __future__ import annotations

import json
from pathlib import Path

import pytest

from niels_gpt.train.plot import HEIGHT, as_text, curves_of, main

LINES = [
    {"step": 1, "loss": 5.0, "lr": 0.0},
    {"step": 2, "loss": 3.0, "lr": 1.0},
    {"step": 2, "val_loss": 4.0, "val": {"wiki": 4.0, "primer": 2.0}},
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    text = "".join(json.dumps(line) + "\n" for line in LINES)
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 3, "lo', encoding="utf-8")  # cut off by a crash
    return tmp_path


def test_lines_become_curves() -> None:
    curves = curves_of(LINES)
    assert curves.loss == [(1, 5.0), (2, 3.0)]
    assert curves.held_out == {"wiki": [(2, 4.0)], "primer": [(2, 2.0)]}
    assert curves.lr == [(1, 0.0), (2, 1.0)]


def test_the_picture_lies_beside_the_metrics(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    assert main([str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'metrics.png'}\n"
    assert (run / "metrics.png").read_bytes().startswith(b"\x89PNG")


def test_plain_characters_show_each_curve_in_its_place(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run), "--text"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "loss: . training   a held out: wiki   b held out: primer"
    assert lines[1] == f"{'5':>10} |."  # the highest loss, at the first step
    assert lines[HEIGHT].endswith("b")  # the lowest, at the last
    assert not any("nothing yet" in line for line in lines)


def test_a_run_without_evaluations_is_drawn_too() -> None:
    assert "held out" not in as_text(curves_of(LINES[:1]))


def test_a_folder_without_metrics_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
