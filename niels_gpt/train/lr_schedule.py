"""The learning rate of each step: linear warm-up, then half a cosine down to the floor."""

from __future__ import annotations

import math


def lr_at_step(step: int, total_steps: int, *, base_lr: float, warmup_steps: int, min_lr: float) -> float:
    """Return the learning rate at `step`, counted from 0.

    Rises from 0 to `base_lr` over `warmup_steps`, falls along a cosine to `min_lr` at `total_steps`, and
    stays there; a negative step counts as 0.
    """
    if step < warmup_steps:
        return base_lr * max(step, 0) / warmup_steps
    progress = min((step - warmup_steps) / max(total_steps - warmup_steps, 1), 1.0)
    return min_lr + (base_lr - min_lr) * 0.5 * (1.0 + math.cos(math.pi * max(progress, 0.0)))
