"""Inference on a CPU with one arithmetic: the same bits for every batch, chunk, thread count and processor.

Every number here is a fixed order of IEEE 754 operations, stated in the docstring of the kernel that makes it
and argued in docs/arithmetic.md. Recorded conversations depend on that order. A change to any bit of a result
must raise `KERNEL_VERSION` and record the reason. Importing this package imports nothing heavy.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Literal

from niels_gpt.errors import NielsGptError

KERNEL_VERSION = 1
"""The version of the arithmetic: raised with every change of a result's bits, recorded with every reply."""
INTEGER_VERSION = 2
"""The same for models with weights of integers in groups, which share the numbers in `KERNEL_HISTORY`."""

KERNEL_HISTORY: dict[int, str] = {
    1: "the first order of operations",
    2: "next to integer weights in groups, activations have 16 bits instead of 8",
}
"""The reason why each version's bits differ from those of the previous one; shown by a replay."""

WeightForm = Literal["float32", "int8", "q8", "q4"]
"""How linear layers and the output head hold their weights. The default "float32" leaves those of a file of
another project as they are; the others are quantised when a model is opened."""


class UnsupportedFormError(NielsGptError):
    """The kernels do not support this model; the message names the missing feature."""


GroupForm = Literal["stored", "float32", "int8", "q8", "q4"]
"""Weight forms for models of any family: as stored in the file, or converted to one form when packed."""


def why_unavailable(*, compiled: bool = False) -> str | None:
    """Return a one-line reason why the kernels cannot run here, or None.

    Only a missing or unsupported Numba counts. Any other error is a bug or a lack of memory. Falling back to
    torch because of one would produce replies that no replay can confirm.

    Args:
        compiled: Whether the kernels are compiled already. Numba is then not imported, which takes half a
            second, but has to be installed.

    """
    try:
        if compiled and importlib.util.find_spec("numba") is not None:
            importlib.import_module("llvmlite.binding")
        else:
            importlib.import_module("numba")
    except (ImportError, OSError, SystemError) as error:  # raised by an incompatible binary
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return None
