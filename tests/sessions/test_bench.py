"""The benchmark of the store runs and prints what it measures; no number is judged."""

from __future__ import annotations

from bench import store


def test_the_benchmark_times_a_filled_store_beside_an_empty_one(tmp_path, capsys):
    assert store.main(["--quick", "--folder", str(tmp_path)]) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert table[0] == "| operation | empty, ms | large, ms | ratio |"
    assert len(table) == 12
