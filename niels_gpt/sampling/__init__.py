"""From one row of logits to one token: settings, filters, and the draw that a conversation can repeat.

`settings` holds what a user chooses, `filters` are the steps as functions of rows, `sampler` takes them in
the one order that the kernels take too.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from niels_gpt.sampling.errors import LogitsError
from niels_gpt.sampling.settings import Sampling, check_temperature

if TYPE_CHECKING:
    from niels_gpt.sampling.filters import (
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
    from niels_gpt.sampling.sampler import checked_logits, draw, filtered_probs, scored

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


def __getattr__(name: str) -> object:
    """Import torch with the first name that needs it: programs read the bounds of settings without it."""
    if name in __all__:
        in_sampler = name in ("checked_logits", "draw", "filtered_probs", "scored")
        module = importlib.import_module(f"{__name__}.{'sampler' if in_sampler else 'filters'}")
        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
