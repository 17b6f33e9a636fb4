"""The one base class of the errors that niels_gpt raises on purpose.

Every one of them is a ValueError: what a caller handed over (a file, a setting, a row of logits) cannot be
used.
"""

from __future__ import annotations


class NielsGptError(ValueError):
    """Something given to niels_gpt cannot be used; the message says what, and what to do next."""
