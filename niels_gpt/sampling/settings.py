"""How a token is chosen, as one frozen value that checks itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen; ValueError for a setting out of range.

    The steps go in the order repetition penalty, frequency and presence penalties, temperature, top-k, min-p,
    typical, top-p; each of the last three sees the probabilities that the one before left, summing to 1.
    """

    temperature: float = 0.9
    """0 takes the likeliest token, the lowest id among equals."""
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
        penalty = self.repetition_penalty
        if penalty is not None and not (is_finite(penalty) and penalty > 0.0):
            raise ValueError(
                f"repetition_penalty is {penalty!r}, expected a positive number, or None for none"
            )
        for name in ("frequency_penalty", "presence_penalty"):
            penalty = getattr(self, name)
            if penalty is not None and not is_finite(penalty):
                raise ValueError(f"{name} is {penalty!r}, expected a finite number, or None for none")

    def greedy(self) -> Sampling:
        """Return the same at temperature 0."""
        return replace(self, temperature=0.0)

    @property
    def penalizes_counts(self) -> bool:
        """Whether how often a token occurred matters."""
        return bool(self.frequency_penalty or self.presence_penalty)


def check_temperature(temperature: float) -> None:
    """Raise ValueError unless `temperature` is a finite number from 0."""
    if not is_finite(temperature) or temperature < 0.0:
        raise ValueError(f"temperature is {temperature!r}, expected a number from 0 (0 is greedy)")


def check_share(name: str, p: float | None) -> None:
    """Raise ValueError unless `p` is None or in (0, 1]."""
    if p is not None and not (is_finite(p) and 0.0 < p <= 1.0):
        raise ValueError(f"{name} is {p!r}, expected a number in (0, 1], or None for all tokens")


def is_whole(value: object) -> bool:
    """Whether it is an int, and no bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_finite(value: object) -> bool:
    """Whether it is a finite number, and no bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
