"""Import path that users of the original project call; the code is in `niels_gpt.data.batching`."""

from niels_gpt.data.batching import (
    get_batch,
)

__all__ = [
    "get_batch",
]
