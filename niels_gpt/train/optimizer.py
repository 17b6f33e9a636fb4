"""The optimizer, its learning-rate schedule and the gradient clipping of a step."""

from __future__ import annotations

import math

import torch
from torch import nn

from niels_gpt.train.errors import TrainingError

BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.1


def make_optimizer(model: nn.Module, *, device: str) -> torch.optim.AdamW:
    """Return AdamW in which matrices decay, the embedding included, and norms and biases do not.

    The fused form updates all parameters in one call: on a CPU it saves a tenth of a small model's step.
    """
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    fused = torch.device(device).type in ("cpu", "cuda")
    return torch.optim.AdamW(groups, lr=0.0, betas=BETAS, fused=fused)


def lr_at_step(step: int, total_steps: int, *, base_lr: float, warmup_steps: int, min_lr: float) -> float:
    """Return the learning rate at `step`, counted from 0.

    The rate rises linearly from 0 to `base_lr` over `warmup_steps`, then falls along a cosine to `min_lr` at
    `total_steps`, and stays there. A negative step counts as 0.
    """
    if step < warmup_steps:
        return base_lr * max(step, 0) / warmup_steps
    progress = min((step - warmup_steps) / max(total_steps - warmup_steps, 1), 1.0)
    return min_lr + (base_lr - min_lr) * 0.5 * (1.0 + math.cos(math.pi * max(progress, 0.0)))


def clip_gradients(model: nn.Module, limit: float, *, step: int) -> None:
    """Scale the gradients so that their joint norm is at most `limit`.

    Raises:
        TrainingError: The norm is infinite or no number; an update would destroy the weights. `step` is the
            number of the step in the message.

    """
    norm = nn.utils.clip_grad_norm_(model.parameters(), limit)
    value = float(getattr(norm, "full_tensor", lambda: norm)())  # of a sharded model, the norm is in parts
    if not math.isfinite(value):
        raise TrainingError(
            f"the norm of the gradients is {value!r} at step {step}: training has diverged, and this step is "
            "neither taken nor saved; lower train.base_lr, and resume from an earlier checkpoint"
        )
