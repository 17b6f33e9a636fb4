"""Which device the program picks when nobody names one. Knows nothing about models."""

from __future__ import annotations

import torch


def get_device() -> str:
    """Return "mps" on a Mac that has it, else "cpu"; other devices are used when they are named."""
    return "mps" if torch.backends.mps.is_available() else "cpu"
