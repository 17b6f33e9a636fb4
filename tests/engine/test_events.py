"""Events are values, and their JSON lines give them back."""

from __future__ import annotations

import dataclasses
import json

import pytest

from engine import EventFormatError, from_json, to_json
from engine.events import (
    EVENT_TYPES,
    TERMINAL_EVENTS,
    Event,
    JobCancelled,
    JobDone,
    JobFailed,
    JobQueued,
    JobStarted,
    TokenGenerated,
)

ONE_OF_EACH: list[Event] = [
    JobQueued(job_id="job-1", seq=0, at=0.1 + 0.2),
    JobStarted(job_id="job-1", seq=1, at=1e-300),
    TokenGenerated(job_id="job-1", seq=2, at=5.0, token_id=2**40, text='\n"\u2028\ud800\x00é🦜', index=0),
    JobDone(job_id="job-1", seq=3, at=6.5, reason="stop", receipt={"hash": "ab", "n": [1, 2.5, None, True]}),
    JobCancelled(job_id="job-2", seq=1, at=7.0, cause="deadline", receipt={}),
    JobFailed(job_id="job-3", seq=2, at=8.0, error="no\nluck", kind="ValueError", scope="batch"),
]


def line_with(**changes: object) -> str:
    """A valid TokenGenerated line with some fields changed; a field changed to `...` is left out."""
    record = {"event": "TokenGenerated", "job_id": "j", "seq": 0, "at": 1.0} | {
        "token_id": 1,
        "text": "a",
        "index": 0,
    }
    return json.dumps({key: value for key, value in (record | changes).items() if value is not ...})


@pytest.mark.parametrize("event", ONE_OF_EACH, ids=lambda event: type(event).__name__)
def test_an_event_survives_its_json_line(event: Event) -> None:
    assert from_json(to_json(event)) == event


@pytest.mark.parametrize("event", ONE_OF_EACH, ids=lambda event: type(event).__name__)
def test_the_json_form_is_one_line_of_ascii(event: Event) -> None:
    line = to_json(event)
    assert line.isascii()
    assert len(line.splitlines()) == 1


def test_every_event_class_has_a_name_on_the_wire_and_a_case_above() -> None:
    assert {type(event) for event in ONE_OF_EACH} == set(EVENT_TYPES.values())
    assert all(name == event_type.__name__ for name, event_type in EVENT_TYPES.items())
    assert set(TERMINAL_EVENTS) < set(EVENT_TYPES.values())


def test_events_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ONE_OF_EACH[0].seq = 5  # pyright: ignore[reportAttributeAccessIssue]


def test_the_unchanged_line_is_valid() -> None:
    assert from_json(line_with()).seq == 0


@pytest.mark.parametrize(
    "line",
    [
        "",
        "nonsense",
        "[]",
        "null",
        "[" * 100_000,
        line_with(event="JobExploded"),
        line_with(event=...),
        line_with(event=["JobQueued"]),
        line_with(text=...),
        line_with(extra=1),
        line_with(seq="0"),
        line_with(seq=True),
        line_with(seq=-1),
        line_with(seq=0.0),
        line_with(index=-1),
        line_with(text=None),
        line_with(at="now"),
        line_with(at=float("nan")),
        line_with().replace('"at": 1.0', '"at": 1e999'),
        line_with(at=10**400),
        to_json(ONE_OF_EACH[3]).replace('"stop"', '"cancelled"'),
        to_json(ONE_OF_EACH[4]).replace("{}", "[]"),
        to_json(ONE_OF_EACH[4]).replace("deadline", "boredom"),
        to_json(ONE_OF_EACH[4]).replace(', "cause": "deadline"', ""),
        to_json(ONE_OF_EACH[5]).replace("batch", "world"),
    ],
    ids=lambda line: line[:60],
)
def test_a_line_that_is_no_event_is_a_value_error(line: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        from_json(line)
    assert caught.type is EventFormatError


def test_an_unknown_event_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'JobExploded'.*JobQueued.*JobFailed"):
        from_json(line_with(event="JobExploded"))
