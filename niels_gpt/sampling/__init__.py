"""From one row of logits to one token: settings, filters, and the draw that a conversation can repeat.

`settings` says how a token is chosen, `filters` are the steps as functions of rows, `draw` takes them in
the one order that the kernels take too.
"""

from __future__ import annotations

from niels_gpt.sampling.draw import checked_logits, draw, filtered_probs, scored
from niels_gpt.sampling.filters import (
    LogitsError,
    ban,
    likeliest,
    min_p_filter,
    nucleus_sampling,
    penalize_counts,
    penalize_repetition,
    temperature_scaled_softmax,
    top_k_filter,
    top_p_filter,
    typical_filter,
)
from niels_gpt.sampling.settings import Sampling, check_temperature

__all__ = [
    "LogitsError",
    "Sampling",
    "ban",
    "check_temperature",
    "checked_logits",
    "draw",
    "filtered_probs",
    "likeliest",
    "min_p_filter",
    "nucleus_sampling",
    "penalize_counts",
    "penalize_repetition",
    "scored",
    "temperature_scaled_softmax",
    "top_k_filter",
    "top_p_filter",
    "typical_filter",
]
