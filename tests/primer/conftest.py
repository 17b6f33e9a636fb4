"""The generator is a script beside the packages, so its folder joins the path here."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "tools"))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    return REPO / "data"


@pytest.fixture(scope="session")
def topic_files(data_dir: Path) -> dict[str, dict[str, Any]]:
    return {path.name: json.loads(path.read_text("utf-8")) for path in (data_dir / "primer").glob("*.json")}


@pytest.fixture(scope="session")
def entries(topic_files: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [entry for content in topic_files.values() for entry in content["entries"]]


@pytest.fixture(scope="session")
def exchanges(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every entry and every follow-up: whatever has questions, answers and a `must` list."""
    return [exchange for entry in entries for exchange in [entry, *entry.get("follow_ups", [])]]
