"""Import path that users of the original project call; the code is in `niels_gpt.train.window_data`."""

from niels_gpt.train.window_data import (
    eval_loss_on_stream,
)

__all__ = [
    "eval_loss_on_stream",
]
