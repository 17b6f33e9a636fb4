"""What the architecture says of packages and import paths is what is there."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
PAGE = (REPO / "docs/architecture.md").read_text("utf-8")
PATHS = re.findall(r"^\| `(niels_gpt\.[a-z_.]+)` \| `(niels_gpt\.[a-z_.]+)` \|$", PAGE, re.MULTILINE)


def test_every_package_of_the_program_is_in_the_table():
    named = set(re.findall(r"^\| `niels_gpt/([a-z]+)/` \|", PAGE, re.MULTILINE))
    packages = {path.parent.name for path in (REPO / "niels_gpt").glob("*/__init__.py")}
    assert named == packages - {"infer"}  # infer holds one import path that existing users call


def test_there_are_import_paths():
    assert len(PATHS) >= 10


@pytest.mark.parametrize(("kept", "code"), PATHS)
def test_an_import_path_gives_what_the_code_behind_it_has(kept: str, code: str):
    thin, real = importlib.import_module(kept), importlib.import_module(code)
    assert thin.__all__
    assert all(getattr(thin, name) is getattr(real, name) for name in thin.__all__)


def test_every_file_that_the_page_names_is_there():
    named = re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.(?:py|md))`", PAGE)
    assert len(named) > 20
    roots = (REPO, REPO / "niels_gpt", REPO / "docs")
    assert [name for name in named if not any((root / name).exists() for root in roots)] == []
