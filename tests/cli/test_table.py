"""Lines that fit, whatever is in them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prompt_toolkit.utils import get_cwidth

from niels_gpt.cli.subcommands import helpers
from niels_gpt.terminal.table import Column, cut, packed, padded, table, wrapped
from niels_gpt.text.control_characters import harmless

texts = st.text(st.sampled_from("ab \u6f22\u5b57e\u0301\u200d\U0001f333\u05d0-"), max_size=40)
widths = st.integers(2, 30)


@settings(max_examples=50, deadline=None)
@given(texts, widths)
def test_what_is_cut_or_wrapped_fits_and_wrapping_loses_blanks_alone(text: str, width: int) -> None:
    assert get_cwidth(cut(text, width)) <= width
    lines = list(wrapped(text, width))
    assert max(map(get_cwidth, lines)) <= width
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


@settings(max_examples=50, deadline=None)
@given(st.lists(texts, max_size=5), widths)
def test_packed_facts_fit_and_are_all_there(facts: list[str], width: int) -> None:
    lines = list(packed(facts, width))
    assert max(map(get_cwidth, lines), default=0) <= width
    for fact in facts:
        assert fact.replace(" ", "") in "".join(lines).replace(" ", "")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(texts, min_size=3, max_size=3), min_size=1, max_size=4), st.integers(20, 60))
def test_a_table_fits_and_never_cuts_the_first_cell(rows: list[list[str]], width: int) -> None:
    columns = (Column(title="A"), Column(title="N", right=True, noun="turn"), Column(title="C"))
    lines = table(columns, rows, width)
    assert max(map(get_cwidth, lines)) <= width
    shown = "".join(lines).replace(" ", "")
    assert all(row[0].replace(" ", "") in shown for row in rows)


def test_words_stay_whole_where_they_can() -> None:
    assert list(wrapped("one two three", 8)) == ["one two", "three"]
    assert list(wrapped("abcdefghij", 4)) == ["abcd", "efgh", "ij"]
    assert list(wrapped("", 4)) == [""]


def test_wide_characters_take_two_columns() -> None:
    assert cut("\u6f22\u5b57\u6f22", 5) == "\u6f22\u5b57\u2026"
    assert padded("\u6f22", 4, right=True) == "  \u6f22"


def test_nothing_in_a_cell_is_obeyed() -> None:
    lines = table((Column(title="A"), Column(title="B")), [["\x1b[31mred", "a\tb\nc\x07"]], 40)
    assert lines[1] == harmless("\x1b[31mred") + "  a b c\u2407"


def test_what_does_not_fit_on_the_terminal_goes_to_the_pager(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pager = tmp_path / "pager"
    pager.write_text(f"#!/bin/sh\n(echo $LESS; cat) > {tmp_path}/paged\n", encoding="utf-8")
    pager.chmod(0o755)
    monkeypatch.setenv("PAGER", str(pager))
    monkeypatch.setenv("LINES", "3")
    monkeypatch.delenv("LESS", raising=False)
    helpers.print_page(["one", "two", "three"])  # standard output is no terminal
    assert capsys.readouterr().out == "one\ntwo\nthree\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    helpers.print_page(["one", "two"])
    assert capsys.readouterr().out == "one\ntwo\n"
    helpers.print_page(["one", "two", "thrée"])
    assert capsys.readouterr().out == ""
    assert (tmp_path / "paged").read_text("utf-8") == "FRX\none\ntwo\nthrée\n"
    monkeypatch.setenv("PAGER", "cat")
    helpers.print_page(["one", "two", "three"])
    assert capsys.readouterr().out == "one\ntwo\nthree\n"
