"""Inference on a CPU with one arithmetic: the same bits for every batch, chunk, thread count and processor.

Every number here is a fixed order of IEEE 754 operations, stated in the docstring of the kernel that makes it
and argued in docs/arithmetic.md. Recorded conversations depend on that order: whoever changes a bit of any
result raises `KERNEL_VERSION` and writes down why. Importing this package imports nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import Literal

from niels_gpt.errors import NielsGptError

KERNEL_VERSION = 1
"""Raised with every change of a result's bits; recorded with every reply."""

KERNEL_HISTORY: dict[int, str] = {
    1: "the first order of operations",
}
"""Every version, and why its bits are others than those of the one before. A replay tells it."""

WeightForm = Literal["float32", "int8"]
"""How linear layers and the output head hold their weights; activations are float32 in both forms."""


class UnsupportedFormError(NielsGptError):
    """A model that the kernels do not compute; the message names what they lack."""


GroupForm = Literal["stored", "float32", "int8", "q8", "q4"]
"""The same for models of any family: as the file has them, or turned into one form when they are packed."""


def why_unavailable() -> str | None:
    """Return why no kernels can run here, in one line, or None if they can. Imports Numba: half a second.

    Only a missing or unsupported Numba counts. Any other error is a bug or a full memory, and an arithmetic
    that changed because of one would make replies that no replay can confirm.
    """
    try:
        importlib.import_module("numba")
    except (ImportError, OSError, SystemError) as error:  # what a binary that does not fit raises
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return None
