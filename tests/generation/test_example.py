from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "generation_api.py"


@pytest.mark.parametrize("kind", ["directory", "gpt_directory"])
def test_every_call_of_the_example_works(kind: str, request, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), str(request.getfixturevalue(kind))])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert "Once upon a time" in capsys.readouterr().out
