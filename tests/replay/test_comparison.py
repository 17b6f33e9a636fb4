"""Verdicts over plain values: nothing but what was recorded and what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from niels_gpt.replay.verdict import Account, Verdict, compare, differences, overall
from niels_gpt.replay.word_diff import Piece, shown, word_difference, words

ONE = Account(prompt_hash="p", token_ids=(1, 2, 3), text="abc", finish_reason="stop", logits_hash="h")


def judged(**found: Any) -> Verdict:
    return compare(ONE, replace(ONE, **found), turn=4, position=9, decode=_letters)


def _letters(ids: Sequence[int]) -> str:
    return "".join(chr(96 + each) for each in ids)


def test_equal_accounts_are_exact() -> None:
    assert judged() == Verdict(kind="exact", turn=4, position=9)


@pytest.mark.parametrize("found", ["other", None])
def test_equal_tokens_from_other_logits_are_tokens_only(found: str | None) -> None:
    assert judged(logits_hash=found).kind == "tokens_only"


def test_without_a_recorded_hash_nothing_is_exact() -> None:
    blank = replace(ONE, logits_hash=None)
    assert compare(blank, blank, turn=1, position=2, decode=_letters).kind == "tokens_only"


@pytest.mark.parametrize(
    ("found", "place", "index", "expected", "got"),
    [
        ({"prompt_hash": "q", "token_ids": ()}, "prompt", 0, "p", "q"),
        ({"token_ids": (1, 5, 3)}, "token", 1, "bc", "ec"),
        ({"token_ids": (1, 2)}, "token", 2, "c", ""),
        ({"token_ids": (1, 2, 3, 4)}, "token", 3, "", "d"),
        ({"finish_reason": "length"}, "ending", 3, "stop", "length"),
        ({"text": "abX"}, "text", 2, "c", "X"),
    ],
)
def test_a_divergence_names_the_first_place(
    found: dict[str, Any], place: str, index: int, expected: str, got: str
) -> None:
    divergence = judged(**found).divergence
    assert divergence is not None
    assert (divergence.place, divergence.index) == (place, index)
    assert (divergence.expected.text, divergence.got.text) == (expected, got)


def test_deciding_parts_come_before_explaining_ones() -> None:
    found = differences(
        {"weights": "a", "config": "c"}, {"weights": "b", "config": "c"},
        {"cpu": "x", "kernel_version": 1}, {"cpu": "y", "kernel_version": 1},
    )  # fmt: skip
    assert [(each.part, each.decides) for each in found] == [("weights", True), ("cpu", False)]


@pytest.mark.parametrize(
    ("kinds", "worst"),
    [
        ([], "exact"),
        (["exact", "tokens_only"], "tokens_only"),
        (["tokens_only", "unverifiable"], "unverifiable"),
        (["diverged", "unverifiable", "exact"], "diverged"),
    ],
)
def test_the_verdict_over_all_is_the_worst(kinds: list[Any], worst: str) -> None:
    assert overall(Verdict(kind=kind, turn=1, position=1) for kind in kinds) == worst


@given(st.text(alphabet="ab \n", max_size=40), st.text(alphabet="ab \n", max_size=40))
def test_the_pieces_of_a_difference_are_both_texts(old: str, new: str) -> None:
    pieces = word_difference(old, new)
    assert "".join(piece.text for piece in pieces if piece.kind != "new") == old
    assert "".join(piece.text for piece in pieces if piece.kind != "gone") == new


def test_a_difference_is_shown_in_marks_or_in_colours() -> None:
    pieces = word_difference("the red cat", "the blue cat")
    assert shown(pieces, styled=False) == "the[- red-]{+ blue+} cat"
    assert shown(pieces, styled=True) == "the\x1b[31;9m red\x1b[0m\x1b[32m blue\x1b[0m cat"


def test_equal_texts_are_one_piece() -> None:
    assert word_difference("a b", "a b") == [Piece(kind="same", text="a b")]


def test_words_are_counted_by_kind() -> None:
    pieces = word_difference("one two three", "one 2 or 3")
    assert [words(pieces, kind) for kind in ("same", "gone", "new")] == [1, 2, 3]
