"""What is written down about the chat is what is there."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
from xml.etree import ElementTree

import pytest

from niels_gpt import serve_cli
from niels_gpt.chat.commands.registry import COMMANDS
from niels_gpt.cli.exit_codes import MEANINGS
from niels_gpt.cli.generate import options as generate_options
from niels_gpt.cli.options import build_parser
from tools.generate_manual import COMPLETIONS, GUIDE, MAN, completions, guide, pages

GROFF = shutil.which("groff")
PICTURE = GUIDE.with_name("chat.svg")
AGAIN = "run python -m tools.generate_manual"


PAGES = ("niels-chat.1", "niels-generate.1", "niels-serve.1")


def test_the_manual_pages_are_what_the_parsers_say() -> None:
    assert {path.name: path.read_text("utf-8") for path in MAN.iterdir()} == pages(), AGAIN
    assert sorted(pages()) == list(PAGES)
    assert {path.name: path.read_text("utf-8") for path in COMPLETIONS.iterdir()} == completions(), AGAIN


@pytest.mark.parametrize(
    ("name", "parser"),
    [("niels-generate.1", generate_options.build_parser()), ("niels-serve.1", serve_cli.build_parser())],
)
def test_a_manual_page_has_every_flag(name: str, parser: argparse.ArgumentParser) -> None:
    text = pages()[name].replace("\\-", "-")
    for action in parser._actions:
        if action.help != argparse.SUPPRESS:
            assert f"\n.B {', '.join(action.option_strings)}" in text
    assert "%(" not in text


def test_the_tables_of_the_guide_are_what_the_registries_say() -> None:
    text = GUIDE.read_text("utf-8")
    assert guide(text) == text, AGAIN
    for name in COMMANDS:
        assert f"| `{name}" in text
    for status in MEANINGS:
        assert f"\n| {status} | " in text


def test_a_table_that_was_changed_by_hand_is_made_anew() -> None:
    text = GUIDE.read_text("utf-8")
    assert guide(text.replace("| `/seed S` |", "| `/sede S` |")) == text


def test_flags_that_the_guide_names_exist() -> None:
    known = {flag for action in build_parser()._actions for flag in action.option_strings}
    prose = re.sub(r"<!-- \w+ -->.*?<!-- end -->", "", GUIDE.read_text("utf-8"), flags=re.DOTALL)
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", prose)) <= known


@pytest.mark.skipif(GROFF is None, reason="groff is not there")
@pytest.mark.parametrize("name", PAGES)
def test_a_manual_page_is_roff_that_groff_accepts(name: str) -> None:
    assert GROFF is not None
    done = subprocess.run(
        [GROFF, "-man", "-Tutf8", "-ww", str(MAN / name)], capture_output=True, check=True, timeout=30
    )
    assert done.stderr == b""


def test_the_picture_of_the_chat_keeps_its_blanks() -> None:
    picture = ElementTree.fromstring(PICTURE.read_text("utf-8"))  # noqa: S314 - a file of this repository
    texts = list(picture.iter("{http://www.w3.org/2000/svg}text"))
    assert any("  " in (each.text or "") for each in texts)
    for each in texts:
        assert each.get("{http://www.w3.org/XML/1998/namespace}space") == "preserve"
        # Otherwise a browser would stretch what is left of it.
        assert float(each.get("textLength", 0)) == pytest.approx(8.4 * len(each.text or ""), abs=0.06)
