"""What docs/engine.md says of events, statistics and limits is what is there."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path
from typing import get_args

from engine import (
    CancelCause,
    Engine,
    FailureScope,
    FinishReason,
    JobState,
    JobStatistics,
    Statistics,
    from_json,
    to_json,
)
from engine.engine import FEED_CAPACITY
from engine.events import EVENT_TYPES
from engine.statistics import REMEMBERED

PAGE = (Path(__file__).parents[2] / "docs/engine.md").read_text("utf-8")
COMMON = {"job_id", "seq", "at"}
TYPES = {"str": "string", "int": "integer", "float": "number", "Mapping[str, object]": "object"}


def section(title: str) -> str:
    return PAGE.split(f"## {title}\n")[1].split("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """The cells of all tables, without their headers."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [
        [re.sub(r"^`([^`]*)`$", r"\1", cell.strip()) for cell in line.strip("|").split("|")] for line in lines
    ]


def documented_events() -> dict[str, dict[str, str]]:
    """Fields and their types by event."""
    found: dict[str, dict[str, str]] = {}
    name = ""
    for event, field, kind, _ in rows(section("Events"))[2:]:
        name = event or name
        found.setdefault(name, {})
        if field:
            found[name][field] = kind
    return found


def test_every_event_is_there_with_all_its_fields_and_their_types() -> None:
    documented = documented_events()
    assert documented.pop("every event") == {
        "event": "string", "job_id": "string", "seq": "integer", "at": "number",
    }  # fmt: skip
    words = {"FinishReason", "CancelCause", "FailureScope"}
    assert documented == {
        name: {
            field.name: "string" if field.type in words else TYPES[str(field.type)]
            for field in fields(event_type)
            if field.name not in COMMON
        }
        for name, event_type in EVENT_TYPES.items()
    }


def test_every_word_that_a_field_may_hold_is_there() -> None:
    meanings = {row[1]: row[3] for row in rows(section("Events"))}
    for field, words in (("reason", FinishReason), ("cause", CancelCause), ("scope", FailureScope)):
        assert set(re.findall(r"`(\w+)`", meanings[field])) == set(get_args(words))


def test_the_examples_are_lines_of_each_event_as_they_are_printed() -> None:
    examples = re.findall(r"^\{.*\}$", section("Events"), re.MULTILINE)
    assert [to_json(from_json(line)) for line in examples] == examples
    assert [type(from_json(line)).__name__ for line in examples] == list(EVENT_TYPES)


def test_every_number_of_the_statistics_is_there() -> None:
    engine_table, job_table = section("Statistics").split("| of a job |")
    for table, numbers in ((engine_table, Statistics), (job_table, JobStatistics)):
        named = {name for row in rows(table) for name in re.findall(r"\w+", row[0].replace("`", ""))}
        assert {field.name for field in fields(numbers)} <= named


def test_every_state_and_every_limit_of_a_job_is_there() -> None:
    life = section("The life of a job")
    assert all(re.search(rf"\b{state.value}\b", life) for state in JobState)
    parameters = set(inspect.signature(Engine.submit).parameters) - {"self", "request"}
    assert all(f"{name}=" in life for name in parameters)
    assert "`max_batch`" in life
    assert "`max_queue`" in life


def test_the_bounds_are_those_of_the_code() -> None:
    assert f"{FEED_CAPACITY:,} events" in section("Guarantees")
    assert f"latest {REMEMBERED:,} jobs" in section("Statistics")


def test_every_file_and_example_that_is_named_is_there() -> None:
    root = Path(__file__).parents[2]
    named = set(re.findall(r"`((?:engine|niels_gpt|examples)/[\w/]+\.py)`", PAGE))
    named |= set(re.findall(r"\]\(\.\./([\w/]+\.py)\)", PAGE))
    assert len(named) > 5
    assert {name for name in named if not (root / name).exists()} == set()
