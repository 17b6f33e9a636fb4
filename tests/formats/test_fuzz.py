"""The short run of the campaign in fuzz.py."""

from __future__ import annotations

from pathlib import Path

from tests.formats import fuzz


def test_whatever_is_wrong_with_a_file_it_is_refused_or_imported_whole(tmp_path: Path) -> None:
    refused, turned_away, imported = fuzz.campaign(fuzz.valid_files(), files=100, folder=tmp_path)
    # Both ends are reached: files that are broken, and files in which nothing that counts was changed.
    assert refused > 40
    assert imported > 10
    assert refused + turned_away + imported == 100
