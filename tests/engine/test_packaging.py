"""The engine is light, and its examples run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from engine import from_json
from engine.testing import check_history

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "numpy", "sqlmodel", "sqlalchemy", "prompt_toolkit", "tokenizers", "niels_gpt", "sessions")


def run(*arguments: str) -> str:
    finished = subprocess.run(  # our own interpreter on our own files
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=True, timeout=55
    )
    assert finished.stderr == ""
    return finished.stdout


@pytest.mark.parametrize("module", ["engine", "engine.testing"])
def test_importing_the_engine_imports_nothing_heavy(module: str) -> None:
    loaded = run("-c", f"import sys, {module}; print(*sys.modules)").split()
    assert module in loaded
    assert not {name.partition(".")[0] for name in loaded} & set(HEAVY)


def test_the_check_for_heavy_imports_would_see_one() -> None:
    loaded = run("-c", "import sys, engine, niels_gpt; print(*sys.modules)").split()
    assert {name.partition(".")[0] for name in loaded} & set(HEAVY)


def test_the_engines_tests_import_nothing_heavy_either() -> None:
    sources = {path.name: path.read_text("utf-8") for path in Path(__file__).parent.glob("*.py")}
    heavy = re.compile(rf"^\s*(?:from|import) (?:{'|'.join(HEAVY)})\b", re.MULTILINE)
    assert len(sources) > 15
    assert [name for name, source in sources.items() if heavy.search(source)] == []
    assert heavy.search("    from niels_gpt.decoding import request")


def test_the_example_prints_a_whole_history_as_json_lines() -> None:
    events = [from_json(line) for line in run("examples/engine_fake_model.py").splitlines()]
    check_history(events)
    assert len(events) > 4


def test_the_example_is_as_short_as_it_says() -> None:
    body = [
        line for line in (ROOT / "examples/engine_fake_model.py").read_text().splitlines() if line.strip()
    ]
    assert len(body) <= 25


def test_the_shipped_model_answers_all_three_questions_of_its_example() -> None:
    lines = run("examples/engine_shipped_model.py").splitlines()
    assert len(lines) == 6
    assert all(answer.strip() for answer in lines[1::2])


def test_one_reply_reaches_three_subscribers() -> None:
    assert set(run("examples/engine_fan_out.py").splitlines()) == {
        "from the start: 1 2 3 4 5 6 7 8 9 10 ",
        "late, from the eighth event: 7 8 9 10 ",
        "leaves after three tokens: 1 2 3 ",
    }
