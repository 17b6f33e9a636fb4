"""Records that an imported file may claim: anything of any type, and never a traceback."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from niels_gpt.conversation.planning import SeedSource
from niels_gpt.replay import compare, html_report
from niels_gpt.replay.environment import recorded_environment
from niels_gpt.replay.playback import play
from niels_gpt.replay.replay import Replay
from niels_gpt.replay.report import report_lines
from sessions import SessionNotFound, open_store

GOOD = {"session_seed": 5, "turn": 2, "attempt": 0}


@pytest.mark.parametrize(
    "environment",
    [
        {"weights": ["int8"]},
        {"weights": {"a": 1}},
        {"weights": None, "kernel_version": "new"},
        {"kernel_version": True, "path": 7},
        {"seed_source": []},
        {"seed_source": {}},
        {"seed_source": {**GOOD, "turn": "two"}},
        {"seed_source": {**GOOD, "turn": 2**70}},
        {"seed_source": {**GOOD, "more": 1}},
        {"context_rule": "newest"},
        {"context_rule": 99},
        {"context_rule": None},
    ],
)
def test_an_environment_of_any_types_is_replayed_without_a_traceback(
    environment: dict[str, Any], replayed: Callable[..., Replay], damage: Callable[..., None]
) -> None:
    damage("UPDATE generation SET environment = ?", json.dumps(environment))
    found = replayed(turn=1)
    assert found.kind in {"diverged", "exact", "tokens_only"}  # its digest no longer holds
    assert list(report_lines(found))


def test_a_seed_source_is_read_when_it_is_whole(replayed: Callable[..., Replay]) -> None:
    generation = replayed(turn=1).questions[0].recorded.generation
    environment = recorded_environment(replace(generation, environment={"seed_source": GOOD}))
    assert environment.seed_source == SeedSource(**GOOD)
    assert (environment.weights, environment.kernel_version, environment.context_rule) == (None, None, 1)


@pytest.mark.parametrize("seconds", [-5, -math.inf, math.inf, math.nan, 1e300, "soon", None, True])
def test_recorded_times_can_always_be_waited_for(seconds: Any, replayed: Callable[..., Replay]) -> None:
    turn = replayed(turn=1).questions[0].recorded
    timings = {"first_token": seconds, "total": seconds}
    turn = replace(turn, generation=replace(turn.generation, timings=timings))
    waited: list[float] = []
    play(turn, speed=1.0, show=lambda _: None, wait=waited.append)
    assert all(0 <= each <= 600 for each in waited)


def test_a_probability_that_is_no_number_has_a_colour() -> None:
    assert html_report._mixed((255, 140, 40), math.nan) == "#ffffff"
    assert html_report._mixed((255, 140, 40), math.inf) == "#ffffff"


def test_turns_without_their_checkpoint_share_one_line(
    store_path: Any, damage: Callable[..., None], replayed: Callable[..., Replay], tmp_path: Any
) -> None:
    found = replayed(path=tmp_path / "none.pt")
    lines = list(report_lines(found))
    assert lines[0] == f"turns 1 to 6: unverifiable checkpoint '{tmp_path}/none.pt' does not exist"
    assert sum("does not exist" in line for line in lines) == 1


def test_a_comparison_looks_for_the_session_before_it_loads_a_model(store_path: Any, checkpoint: Any) -> None:
    from niels_gpt.conversation.options import ChatOptions  # noqa: PLC0415

    def load(options: ChatOptions) -> Any:
        raise AssertionError("loaded")

    options = ChatOptions(checkpoint=checkpoint, checkpoint_given=True)
    with open_store(store_path) as store, pytest.raises(SessionNotFound):
        compare.other_model(store, "nowhere", options, load)
