"""Import path that users of the original project call; the code is in `niels_gpt.train.lr_schedule`."""

from niels_gpt.train.lr_schedule import (
    lr_at_step,
)

__all__ = [
    "lr_at_step",
]
