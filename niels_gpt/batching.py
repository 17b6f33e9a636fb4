"""Import path that users of the original project call; the code is in `niels_gpt.data.windows`."""

from niels_gpt.data.windows import (
    get_batch,
)

__all__ = [
    "get_batch",
]
