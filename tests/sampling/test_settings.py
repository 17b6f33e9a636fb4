"""Bounds of the settings: what float32 cannot hold is refused where it is said, by name and value."""

from __future__ import annotations

import subprocess
import sys

import pytest

from niels_gpt.conversation.settings import SETTINGS, Settings
from niels_gpt.sampling import Sampling, temperature_scaled_softmax
from niels_gpt.sampling.settings import MAX_PENALTY, MAX_TEMPERATURE

TOO_MUCH = {
    "temperature": [1e39, 1e300, -1e-9, float("nan"), float("inf"), 10**400],
    "repetition_penalty": [1e-38, 1e-46, 1e31, 1e300, 0.0, -1.0, float("inf"), 10**400],
    "frequency_penalty": [-1e39, -2e38, 1e31, float("-inf"), float("nan"), 10**400],
    "presence_penalty": [-1e300, 1e39, float("inf")],
    "top_p": [0.0, 1.5, float("nan")],
    "typical_p": [0.0, -0.1],
    "min_p": [-0.1, 1.5, float("nan")],
}
EXTREMES = {
    "temperature": [0.0, 5e-324, MAX_TEMPERATURE],
    "repetition_penalty": [1 / MAX_PENALTY, MAX_PENALTY],
    "frequency_penalty": [-MAX_PENALTY, MAX_PENALTY],
    "presence_penalty": [-MAX_PENALTY, MAX_PENALTY],
    "top_p": [1e-300, 1.0],
    "typical_p": [1e-300, 1.0],
    "min_p": [0.0, 1.0],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in TOO_MUCH for value in TOO_MUCH[name]])
def test_a_value_beyond_float32_is_refused_by_the_sampler_and_by_the_chat(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is .*, expected"):
        Sampling(**{name: value})
    with pytest.raises(ValueError, match="is not allowed"):
        SETTINGS[name].read(str(value))
    with pytest.raises(ValueError, match="is not allowed"):
        Settings.from_stored({name: value}, seed=1)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in EXTREMES for value in EXTREMES[name]])
def test_the_bounds_themselves_are_accepted_by_both(name: str, value: float) -> None:
    assert getattr(Sampling(**{name: value}), name) == value
    assert SETTINGS[name].read(repr(value)) == value


@pytest.mark.parametrize("temperature", [0.0, 1e-50, 5e-324, 2.0**-150])
def test_a_temperature_that_float32_rounds_to_0_is_greedy(temperature: float) -> None:
    assert Sampling(temperature).is_greedy
    with pytest.raises(ValueError, match="too small to divide by"):
        temperature_scaled_softmax(None, temperature)  # type: ignore[arg-type]


def test_the_smallest_temperature_that_float32_holds_is_not_greedy() -> None:
    assert not Sampling(1e-45).is_greedy


def test_as_many_biases_as_there_is_room_for_are_accepted_up_to_their_bounds() -> None:
    most = tuple((token_id, 100.0 if token_id % 2 else -100.0) for token_id in range(300))
    assert Sampling(logit_bias=most).logit_bias == most


@pytest.mark.parametrize(
    ("biases", "said"),
    [
        (
            tuple((token_id, 1.0) for token_id in range(301)),
            "logit_bias names 301 tokens, expected at most 300",
        ),
        (((0, 100.5),), "logit_bias has 0: 100.5, expected an id from 0 and a number in"),
        (((0, -100.5),), "logit_bias has 0: -100.5"),
        (((0, float("nan")),), "logit_bias has 0: nan"),
        (((-1, 1.0),), "logit_bias has -1: 1.0"),
        (((True, 1.0),), "logit_bias has True: 1.0"),
        (((5, 1.0), (5, 2.0)), "logit_bias names a token twice"),
    ],
)
def test_a_bias_beyond_its_bounds_is_refused(biases: tuple[tuple[int, float], ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Sampling(logit_bias=biases)


def test_the_bounds_are_known_without_torch() -> None:
    program = (
        "import sys; from niels_gpt.sampling.settings import MAX_PENALTY; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=50).returncode == 0
