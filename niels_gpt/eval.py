"""Import path that users of the original project call; the code is in `niels_gpt.train.validation`."""

from niels_gpt.train.validation import (
    eval_loss_on_stream,
)

__all__ = [
    "eval_loss_on_stream",
]
