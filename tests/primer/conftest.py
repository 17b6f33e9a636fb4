"""The generator is a script beside the packages, so its folder joins the path here."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "tools"))

import generate_primer  # noqa: E402 (the path is extended above)
import primer_wordings  # noqa: E402


@pytest.fixture(scope="session")
def data_dir() -> Path:
    return REPO / "data"


@pytest.fixture(scope="session")
def topic_files(data_dir: Path) -> dict[str, dict[str, Any]]:
    return {path.name: json.loads(path.read_text("utf-8")) for path in (data_dir / "primer").glob("*.json")}


@pytest.fixture(scope="session")
def written_entries() -> list[dict[str, Any]]:
    """Every entry as its topic file has it."""
    return generate_primer.read_topics()


@pytest.fixture(scope="session")
def entries(written_entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every entry with all of its wordings."""
    return primer_wordings.fill(written_entries)


@pytest.fixture(scope="session")
def exchanges(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every entry and every follow-up: whatever has questions, answers and a `must` list."""
    return [exchange for entry in entries for exchange in [entry, *entry.get("follow_ups", [])]]
