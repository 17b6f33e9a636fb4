"""The product's benchmark runs its parts as processes and collects their figures."""

from __future__ import annotations

import pytest

from bench import product, step
from bench.product import PARTS, Figure, Part, found_in

TABLES = """
| | streams | threads | of its best threads | floor / step |
| --- | --- | --- | --- | --- |
| kernels | 1 | 1 | 3.00 | 80% |
| kernels | 32 | 1 | 2.20 | 50% |

| replies | times as fast |
| --- | --- |
| turns that quote (8) | 1.80 |
"""


def test_a_figure_is_found_by_the_cells_that_its_row_begins_with() -> None:
    row = ("kernels", "32", "1")
    assert found_in(TABLES, Figure(what="", row=row, column="floor / step")) == "50%"
    assert found_in(TABLES, Figure(what="", row=("turns that quote",), column="times as fast")) == "1.80"
    for missing in (
        Figure(what="", row=("kernels", "32", "2"), column="floor / step"),
        Figure(what="", row=row, column="share"),
    ):
        assert found_in(TABLES, missing) == "not measured"


def test_a_part_that_is_unknown_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        product.main(["--only", "start,nothing"])
    assert "unknown part 'nothing'; expected some of" in capsys.readouterr().err


def test_parts_run_as_processes_and_end_in_one_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figure = Figure(what="lines of verse", row=("Beautiful",), column="better")
    monkeypatch.setitem(PARTS, "python", Part(module="this", figures=(figure,)))
    assert product.main(["--quick", "--limit", "avx2", "--only", "python"]) == 0
    printed = capsys.readouterr().out
    assert "Beautiful is better than ugly." in printed
    assert "kernels: avx2" in printed
    assert "| lines of verse | not measured |" in printed


def test_a_part_that_fails_is_named(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PARTS, "python", Part(module="bench.nothing"))
    assert product.main(["--quick", "--only", "python"]) == 1
    assert "python failed" in capfd.readouterr().out


def test_the_figures_of_a_part_are_in_what_it_prints(capsys: pytest.CaptureFixture[str]) -> None:
    part = PARTS["python"]
    assert step.main(part.quick.split()) == 0
    printed = capsys.readouterr().out
    assert [found_in(printed, figure) for figure in part.figures] != ["not measured"]
