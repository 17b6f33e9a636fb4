"""Rows of logits from which no token can be taken."""

from __future__ import annotations

from niels_gpt.errors import NielsGptError

PENALTY_OVERFLOW = "the penalties take a logit beyond what float32 holds; use smaller penalties"


class LogitsError(NielsGptError):
    """No token can be taken from a row of logits: NaN, infinity, or every token ruled out."""


def all_banned(V: int) -> str:
    """Return the message for a vocabulary of which every token is banned."""
    return f"all {V} tokens are ruled out; ban fewer ids"
