"""The table of job states says what it must, and nothing gets around it."""

from __future__ import annotations

from itertools import product

import pytest

from engine import JobState
from engine.job_state import TRANSITIONS, check_transition

LEGAL = {
    ("QUEUED", "RUNNING"),
    ("QUEUED", "CANCELLED"),
    ("QUEUED", "FAILED"),
    ("RUNNING", "CANCELLING"),
    ("RUNNING", "DONE"),
    ("RUNNING", "FAILED"),
    ("CANCELLING", "CANCELLED"),
    ("CANCELLING", "DONE"),
    ("CANCELLING", "FAILED"),
}


@pytest.mark.parametrize(("old", "new"), list(product(JobState, JobState)), ids=lambda state: state.name)
def test_exactly_the_listed_transitions_are_legal(old: JobState, new: JobState) -> None:
    if (old.name, new.name) in LEGAL:
        check_transition("job-1", old, new)
    else:
        with pytest.raises(RuntimeError, match=rf"'job-1' cannot go from '{old.value}' to '{new.value}'"):
            check_transition("job-1", old, new)


def test_every_state_has_a_row() -> None:
    assert set(TRANSITIONS) == set(JobState)


def test_the_terminal_states_are_done_cancelled_and_failed() -> None:
    terminal = {state for state in JobState if state.is_terminal}
    assert terminal == {JobState.DONE, JobState.CANCELLED, JobState.FAILED}


def test_every_state_leads_to_an_end() -> None:
    def reachable(state: JobState) -> set[JobState]:
        return {state}.union(*(reachable(following) for following in TRANSITIONS[state]))

    assert all(any(end.is_terminal for end in reachable(state)) for state in JobState)
