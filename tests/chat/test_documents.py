"""What is written down about the chat is what is there."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from niels_gpt.chat.commands.registry import COMMANDS
from niels_gpt.cli.exit_codes import MEANINGS
from niels_gpt.cli.options import build_parser
from tools.generate_manual import GUIDE, PAGE, guide, page

GROFF = shutil.which("groff")
AGAIN = "run python -m tools.generate_manual"


def test_the_manual_page_is_what_the_parsers_say() -> None:
    assert PAGE.read_text("utf-8") == page(), AGAIN


def test_the_tables_of_the_guide_are_what_the_registries_say() -> None:
    text = GUIDE.read_text("utf-8")
    assert guide(text) == text, AGAIN
    for name in COMMANDS:
        assert f"| `{name}" in text
    for status in MEANINGS:
        assert f"\n| {status} | " in text


def test_a_table_that_was_changed_by_hand_is_made_anew() -> None:
    text = GUIDE.read_text("utf-8")
    assert guide(text.replace("| `/temp X` |", "| `/tmep X` |")) == text


def test_flags_that_the_guide_names_exist() -> None:
    known = {flag for action in build_parser()._actions for flag in action.option_strings}
    prose = re.sub(r"<!-- \w+ -->.*?<!-- end -->", "", GUIDE.read_text("utf-8"), flags=re.DOTALL)
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", prose)) <= known


@pytest.mark.skipif(GROFF is None, reason="groff is not there")
def test_the_manual_page_is_roff_that_groff_accepts() -> None:
    assert GROFF is not None
    done = subprocess.run(
        [GROFF, "-man", "-Tutf8", "-ww", str(PAGE)], capture_output=True, check=True, timeout=30
    )
    assert done.stderr == b""
