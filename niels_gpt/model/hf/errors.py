"""The error of a model that cannot change its form."""

from __future__ import annotations

from niels_gpt.errors import NielsGptError


class HFError(NielsGptError):
    """A model, a folder or a tokenizer that has no counterpart; the message names what stands in the way."""
