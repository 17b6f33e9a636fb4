"""Log-probabilities of tokens, from the logits that they were drawn from.

In double precision, rounded to six decimals: the last bit of a machine's `exp` and `log` then makes no
difference. V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

DECIMALS = 6


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """The log-probability of a token, and the likeliest (token id, log-probability) in its place."""

    logprob: float
    top: tuple[tuple[int, float], ...]


def token_logprobs(token_id: int, logits: np.ndarray, count: int) -> TokenLogprobs:
    """Return what logits (V,) say of a token and of the `count` likeliest, lowest id first among equals."""
    row = logits.astype(np.float64)
    shift = row.max()
    total = shift + math.log(math.fsum(np.exp(row - shift)))
    likeliest = _largest(row, count)
    return TokenLogprobs(
        logprob=round(float(row[token_id]) - total, DECIMALS),
        top=tuple((each, round(float(row[each]) - total, DECIMALS)) for each in likeliest),
    )


def _largest(row: np.ndarray, count: int) -> list[int]:
    """Return the ids of the largest values, largest first."""
    if count == 0:
        return []
    # Ties at the border go by id: argpartition alone would leave them to chance.
    border = np.partition(row, -count)[-count] if count < len(row) else row.min()
    ids = np.flatnonzero(row >= border)
    return ids[np.argsort(-row[ids], kind="stable")][:count].tolist()


class Watcher:
    """Collects the log-probabilities of a reply while it is generated, on the compute thread."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.tokens: list[TokenLogprobs] = []

    def __call__(self, token_id: int, logits: np.ndarray) -> None:
        """Take one drawn token and its logits."""
        self.tokens.append(token_logprobs(token_id, logits, self._count))
