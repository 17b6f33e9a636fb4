"""Import path that users of the original project call; the code is in `niels_gpt.train.optimizer`."""

from niels_gpt.train.optimizer import (
    lr_at_step,
)

__all__ = [
    "lr_at_step",
]
