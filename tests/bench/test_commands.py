"""The benchmarks of speed run and print what they measure; no number is judged."""

from __future__ import annotations

import json
import multiprocessing
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from unittest import mock

import pytest

from bench import decode, speculation, step


class Threads:
    """Runs the candidates here, where torch is imported, and not each in a process that imports it again."""

    Process = threading.Thread

    @staticmethod
    def Pipe() -> tuple[Connection, mock.Mock]:  # noqa: N802 - as multiprocessing names it
        ours, theirs = multiprocessing.Pipe()
        # A process closes a copy of its own.
        return ours, mock.Mock(wraps=theirs, close=lambda: None)


def test_the_decode_benchmark_times_the_kernels_beside_torch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiprocessing, "get_context", lambda _method: Threads)
    file = tmp_path / "numbers.json"
    flags = "--models tiny --streams 2 --threads 1 --weights float32 --peers none --prompt 8 --tokens 4"
    sizes = ["--long-prompt", "20", "--repetitions", "1", "--seconds", "0", "--json", str(file)]
    assert decode.main([*flags.split(), *sizes]) == 0
    assert "## tiny" in capsys.readouterr().out
    (report,) = json.loads(file.read_text())["reports"]
    assert {(rate["kind"], rate["streams"]) for rate in report["rates"]} == {("kernels", 2), ("eager", 2)}
    assert max(report["differences"].values()) < 1e-3


def test_the_step_benchmark_accounts_for_the_whole_of_the_kernels_own_step(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert step.main(["--models", "tiny", "--streams", "1,3", "--repetitions", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("| a whole step |") and line.count("100.0%") == 2]


def test_the_speculation_benchmark_finds_no_reply_that_differs(capsys: pytest.CaptureFixture[str]) -> None:
    assert speculation.main(["--quick"]) == 0
    printed = capsys.readouterr().out
    assert "| other turns (1) |" in printed
    assert "0 replies differ" in printed
