from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from niels_gpt.decoding.pacing import (
    FEWEST_CALLS,
    MOST_CALLS,
    TURNS,
    StepThreads,
    ThreadTuner,
    default_threads,
)


def run(tuner: ThreadTuner, seconds: Callable[[int], float], calls: int) -> list[int]:
    """The ways that were taken, where a call takes seconds(threads)."""
    taken = []
    for _ in range(calls):
        threads = tuner.next()
        tuner.record(threads, seconds(threads))
        taken.append(threads)
    return taken


def calm(threads: int) -> float:
    return 1.0 / threads


def busy(threads: int) -> float:
    return 1.0 if threads == 1 else 50.0


@pytest.fixture
def tuner() -> ThreadTuner:
    return ThreadTuner(2)


def test_both_ways_are_tried_in_turns_and_the_faster_one_is_kept(tuner: ThreadTuner) -> None:
    assert run(tuner, calm, 2 * TURNS + 2) == [1, 2] * (TURNS + 1)
    assert set(run(tuner, calm, FEWEST_CALLS)) == {2}


def test_a_way_that_has_lost_already_is_not_tried_to_the_end(tuner: ThreadTuner) -> None:
    assert run(tuner, busy, 2) == [1, 2]
    assert set(run(tuner, busy, FEWEST_CALLS)) == {1}


@pytest.mark.parametrize(("share", "threads"), [(0.95, 1), (0.91, 1), (0.89, 2), (0.5, 2)])
def test_a_second_processor_must_save_a_tenth_of_the_time(
    tuner: ThreadTuner, share: float, threads: int
) -> None:
    run(tuner, lambda threads: 1.0 if threads == 1 else share, 2 * TURNS + 2)
    assert tuner.next() == threads


def test_a_machine_that_becomes_busy_is_noticed_at_once(tuner: ThreadTuner) -> None:
    run(tuner, calm, 20 * FEWEST_CALLS)
    assert run(tuner, busy, 10).count(2) <= 3


def test_a_machine_that_becomes_calm_is_noticed_too(tuner: ThreadTuner) -> None:
    run(tuner, busy, 50_000)
    assert 2 in run(tuner, calm, MOST_CALLS + 2 * TURNS + 2)
    assert tuner.next() == 2


def test_trials_on_a_busy_machine_become_rare(tuner: ThreadTuner) -> None:
    run(tuner, busy, 20_000)
    assert run(tuner, busy, 5 * MOST_CALLS).count(2) <= 5


def test_a_way_that_may_take_very_long_is_tried_with_one_step_first() -> None:
    with closing(StepThreads(None)) as threads:
        if threads.threads == 1:
            pytest.skip("one processor: nothing to choose")
        tried = [
            threads.run(lambda steps, part, parts: (steps, parts)[0], rows=1, steps=8)[0] for _ in range(4)
        ]
    assert tried == [8, 1, 8, 8]


@pytest.fixture
def threads() -> Iterator[StepThreads]:
    with closing(StepThreads(3)) as threads:
        yield threads


def test_a_given_number_of_threads_share_every_call(threads: StepThreads) -> None:
    together = threading.Barrier(3)
    seen = []

    def work(steps: int, part: int, parts: int) -> int:
        together.wait(10)
        seen.append((part, parts))
        return steps

    for _ in range(5):
        done, seconds = threads.run(work, rows=1, steps=4)
        assert done == 4
        assert seconds > 0
    assert sorted(seen) == sorted([(0, 3), (1, 3), (2, 3)] * 5)


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_part_that_fails_releases_the_others_and_its_error_comes_out(
    threads: StepThreads, failing: int
) -> None:
    released, ended = threading.Event(), []

    def work(steps: int, part: int, parts: int) -> int:
        if part == failing:
            raise ZeroDivisionError
        assert released.wait(10)
        ended.append(part)
        return steps

    with pytest.raises(ZeroDivisionError):
        threads.run(work, rows=1, steps=4, release=released.set)
    assert sorted(ended) == sorted({0, 1, 2} - {failing})
    assert threads.run(lambda steps, part, parts: steps, rows=1, steps=4)[0] == 4


def test_where_nobody_says_how_many_calls_of_few_and_of_many_rows_are_judged_apart() -> None:
    with closing(StepThreads(None)) as threads:
        if threads.threads == 1:
            pytest.skip("one processor: nothing to choose")
        for rows in (1, 1, 64, 64):
            threads.run(lambda steps, part, parts: steps, rows=rows, steps=1)
        assert threads._tuners is not None
        assert len(threads._tuners) == 2


def test_one_processor_means_one_thread() -> None:
    assert 1 <= default_threads() <= 2


def test_a_crew_can_be_closed_twice(threads: StepThreads) -> None:
    threads.close()
    threads.close()
