"""The questions of `bench.tasks`, and how a model's choice is found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.tasks import Item, choices, read_items


def test_every_question_has_four_different_answers() -> None:
    items = read_items()
    assert len({item.question for item in items}) == len(items) == 158
    assert {len(set(item.answers)) for item in items} == {4}


def test_a_choice_is_the_largest_sum_or_the_largest_for_each_byte() -> None:
    items = [Item(question="?", answers=("aaaa", "b", "cccccc", "d"))]
    log_shares = {"a": -1.0, "b": -2.0, "c": -1.5, "d": -3.0, " ": -2.0}

    def read(ids: Sequence[int]) -> np.ndarray:
        row = np.full(256, -9.0)
        for letter, value in log_shares.items():
            row[ord(letter)] = value
        return np.tile(row, (len(ids), 1))

    found = choices(items, lambda text: list(text.encode()), read)
    assert found.plain == (1,)  # -4 in all, and -2 for each of two bytes
    assert found.normalised == (0,)  # -6 in all, and -1.2 for each of five bytes
    assert found.accuracies() == (0.0, 1.0)
