"""The reading path leads through files that are there, and stays short enough to be read."""

from __future__ import annotations

import re
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
MOST_LINES = 1500


def test_the_reading_path_is_at_most_as_long_as_it_says():
    page = (REPO / "docs/reading.md").read_text("utf-8")
    files = re.findall(r"^\| `([a-z_/]+\.py)`", page, re.MULTILINE)
    assert len(files) >= 6
    lines = {name: len((REPO / name).read_text("utf-8").splitlines()) for name in files}
    assert sum(lines.values()) <= MOST_LINES, lines
    assert f"at most {MOST_LINES:,} lines" in page
