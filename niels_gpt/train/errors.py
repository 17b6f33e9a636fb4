"""The base of the errors that training raises on purpose."""

from __future__ import annotations

from niels_gpt.errors import NielsGptError


class TrainingError(NielsGptError):
    """A run that cannot start or go on: its configuration, its data, its device or its checkpoint."""
