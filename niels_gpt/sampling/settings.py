"""Sampling settings: one frozen value that checks itself, and the bounds of each number.

Both samplers compute with float32 numbers, so a setting must be one that float32 can hold and compute with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

MAX_TEMPERATURE = (2 - 2.0**-23) * 2.0**127
"""The largest float32."""
MAX_PENALTY = 1e30
"""The largest penalty: float32 holds a hundred million times as much, for logits and counts to multiply."""
_ROUNDS_TO_ZERO = 2.0**-150  # the largest number that is 0 in float32
MOST_BIASED = 300
"""Tokens that a request may bias: the kernels keep room for so many."""
MAX_BIAS = 100.0
"""The largest bias, of either sign; far beyond what any draw leaves a chance."""


@dataclass(frozen=True)
class Sampling:
    """The settings that choose a token; ValueError for one out of range.

    The steps are taken in the order repetition penalty, frequency and presence penalties, temperature,
    top-k, min-p, typical, top-p. Each of the last three sees the probabilities that the one before left,
    summing to 1.
    """

    temperature: float = 0.9
    """0 takes the likeliest token, the lowest id among equals. So does what float32 rounds to 0."""
    top_k: int | None = 50
    """Keep the k likeliest tokens; None, or a k beyond the vocabulary, keeps all."""
    top_p: float | None = None
    """Keep the smallest set of likeliest tokens whose probabilities sum to at least p; None keeps all."""
    repetition_penalty: float | None = None
    """Above 1 makes tokens that already occurred less likely (Keskar et al. 2019, section 4.1)."""
    min_p: float | None = None
    """Keep tokens at least this many times as likely as the likeliest (Nguyen et al. 2024)."""
    typical_p: float | None = None
    """Keep the tokens whose surprise is nearest the expected, until they sum to p (Meister et al. 2022)."""
    frequency_penalty: float | None = None
    """Taken off a token's logit once for each time that it occurred in prompt and reply; may be negative."""
    presence_penalty: float | None = None
    """Taken off a token's logit once if it occurred at all; may be negative."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token id, what is added to its logit after the penalties) of at most 300 tokens."""

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        if self.top_k is not None and (not is_whole(self.top_k) or self.top_k < 1):
            raise ValueError(
                f"top_k is {self.top_k!r}, expected a whole number from 1, or None for all tokens"
            )
        for name in ("top_p", "typical_p"):
            check_share(name, getattr(self, name))
        if self.min_p is not None and not (is_finite(self.min_p) and 0.0 <= self.min_p <= 1.0):
            raise ValueError(f"min_p is {self.min_p!r}, expected a number in [0, 1], or None for all tokens")
        check_repetition_penalty(self.repetition_penalty)
        for name in ("frequency_penalty", "presence_penalty"):
            check_penalty(name, getattr(self, name))
        check_logit_bias(self.logit_bias)

    def greedy(self) -> Sampling:
        """Return the same at temperature 0."""
        return replace(self, temperature=0.0)

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is taken and nothing is drawn."""
        return self.temperature <= _ROUNDS_TO_ZERO

    @property
    def penalizes_counts(self) -> bool:
        """Whether how often a token occurred matters."""
        return bool(self.frequency_penalty or self.presence_penalty)


def check_temperature(temperature: float) -> None:
    """Raise ValueError unless `temperature` is in [0, MAX_TEMPERATURE]."""
    if not is_finite(temperature) or not 0.0 <= temperature <= MAX_TEMPERATURE:
        raise ValueError(
            f"temperature is {temperature!r}, expected a number from 0 (greedy) to {MAX_TEMPERATURE:.2g}"
        )


def check_positive_temperature(temperature: float) -> None:
    """Raise ValueError unless `temperature` is one that float32 can divide by."""
    check_temperature(temperature)
    if temperature <= _ROUNDS_TO_ZERO:
        raise ValueError(f"temperature is {temperature!r}, too small to divide by; use greedy decoding")


def check_logit_bias(logit_bias: tuple[tuple[int, float], ...]) -> None:
    """Raise ValueError unless these are at most 300 ids from 0, each once, with numbers in [-100, 100]."""
    if len(logit_bias) > MOST_BIASED:
        raise ValueError(f"logit_bias names {len(logit_bias)} tokens, expected at most {MOST_BIASED}")
    for token_id, bias in logit_bias:
        if not is_whole(token_id) or token_id < 0 or not is_finite(bias) or not abs(bias) <= MAX_BIAS:
            raise ValueError(
                f"logit_bias has {token_id!r}: {bias!r}, expected an id from 0 and a number in [-100, 100]"
            )
    if len({token_id for token_id, _ in logit_bias}) < len(logit_bias):
        raise ValueError("logit_bias names a token twice, expected each once")


def check_share(name: str, p: float | None) -> None:
    """Raise ValueError unless `p` is None or in (0, 1]."""
    if p is not None and not (is_finite(p) and 0.0 < p <= 1.0):
        raise ValueError(f"{name} is {p!r}, expected a number in (0, 1], or None for all tokens")


def check_repetition_penalty(penalty: float | None) -> None:
    """Raise ValueError unless `penalty` is None or in [1 / MAX_PENALTY, MAX_PENALTY]."""
    if penalty is not None and not (is_finite(penalty) and 1 / MAX_PENALTY <= penalty <= MAX_PENALTY):
        raise ValueError(
            f"repetition_penalty is {penalty!r}, expected a number from {1 / MAX_PENALTY:g} to "
            f"{MAX_PENALTY:g}, or None for none"
        )


def check_penalty(name: str, penalty: float | None) -> None:
    """Raise ValueError unless `penalty` is None or in [-MAX_PENALTY, MAX_PENALTY]."""
    if penalty is not None and not (is_finite(penalty) and abs(penalty) <= MAX_PENALTY):
        raise ValueError(
            f"{name} is {penalty!r}, expected a number from {-MAX_PENALTY:g} to {MAX_PENALTY:g}, "
            "or None for none"
        )


def is_whole(value: object) -> bool:
    """Return whether `value` is an int and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_finite(value: object) -> bool:
    """Return whether `value` is a finite number and not a bool; whole numbers beyond float64 are not."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
