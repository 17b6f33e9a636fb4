from __future__ import annotations

import pytest

from niels_gpt.decoding.pacing import CALL_SECONDS, MAX_CHUNK, MIN_CHUNK, PrefillBudget


def lengths(budget: PrefillBudget, unread: int, *, token_seconds: float) -> list[int]:
    """The budget of a prompt, where a token takes that long."""
    found = []
    while unread:
        count = budget.next(unread)
        budget.record(count, count * token_seconds)
        found.append(count)
        unread -= count
    return found


def test_the_first_prompt_is_read_with_care() -> None:
    assert lengths(PrefillBudget(64), 60, token_seconds=1e-5) == [60]
    assert lengths(PrefillBudget(64), 300, token_seconds=1e-3) == [60] * 5


def test_later_ones_are_read_in_as_few_calls_as_time_allows() -> None:
    budget = PrefillBudget(64)
    lengths(budget, 200, token_seconds=CALL_SECONDS / 210)
    assert lengths(budget, 200, token_seconds=CALL_SECONDS / 210) == [200]
    assert lengths(budget, 420, token_seconds=CALL_SECONDS / 210) == [210, 210]


def test_a_slow_model_keeps_to_the_usual_length() -> None:
    budget = PrefillBudget(64)
    lengths(budget, 640, token_seconds=1.0)
    assert budget.next(640) == 64


def test_no_call_reads_more_than_there_is_memory_for() -> None:
    budget = PrefillBudget(64)
    lengths(budget, 640, token_seconds=1e-9)
    assert budget.next(10_000) <= MAX_CHUNK


@pytest.mark.parametrize("unread", range(1, 200, 7))
def test_every_portion_has_a_token_and_none_is_more_than_is_left(unread: int) -> None:
    found = lengths(PrefillBudget(16), unread, token_seconds=1e-3)
    assert sum(found) == unread
    assert min(found) >= 1


def test_a_call_for_few_tokens_says_nothing_of_many() -> None:
    budget = PrefillBudget(64)
    budget.record(3, 1e-6)
    assert budget.next(640) == 64


def test_where_others_wait_a_slow_model_reads_less_and_a_fast_one_no_more_than_usual() -> None:
    slow, fast = PrefillBudget(64), PrefillBudget(64)
    assert slow.shared == 64
    slow.record(64, 64 * CALL_SECONDS / 20)
    fast.record(64, 64 * CALL_SECONDS / 200)
    assert (slow.shared, fast.shared) == (20, 64)
    slow.record(20, 20 * CALL_SECONDS / 5)
    assert slow.shared == MIN_CHUNK
    slow.record(MIN_CHUNK, MIN_CHUNK * CALL_SECONDS / 40)
    assert slow.shared == 40
