"""docs/replay.md names every flag and every verdict that there is, and only those."""

from __future__ import annotations

import argparse
import re
from importlib import import_module
from pathlib import Path
from typing import get_args

import pytest

from niels_gpt.cli.exit_codes import STATUS_OF_VERDICT
from niels_gpt.cli.subcommands import SUBCOMMANDS
from niels_gpt.replay.report import WORDS
from niels_gpt.replay.verdict import Kind

REPO = Path(__file__).resolve().parents[2]
PAGE = (REPO / "docs/replay.md").read_text("utf-8")


def flags(name: str) -> set[str]:
    parser = argparse.ArgumentParser(add_help=False)
    import_module(SUBCOMMANDS[name].module).add_arguments(parser)
    return {flag for flag in parser.format_help().replace(",", " ").split() if flag.startswith("--")}


def test_every_flag_of_replay_and_why_is_on_the_page() -> None:
    named = set(re.findall(r"--[a-z-]+", PAGE))
    known = {flag.strip("[]") for name in ("replay", "verify", "why") for flag in flags(name)}
    assert len(known) > 10
    assert known - named == set()


@pytest.mark.parametrize("kind", get_args(Kind))
def test_every_verdict_has_its_meaning_and_its_status(kind: Kind) -> None:
    [row] = [line for line in PAGE.splitlines() if line.startswith(f"| {WORDS[kind]} |")]
    assert row.split("|")[-2].strip() == str(STATUS_OF_VERDICT[kind])
