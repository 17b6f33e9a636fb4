"""The optimizer, its learning-rate schedule and the gradient clipping of a step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from niels_gpt.train.errors import TrainingError

BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.1
MUON_MOMENTUM = 0.95
MATCHED_RMS = 0.2
"""Root mean square of an update of Muon by the learning rate; AdamW's is about as large."""


class _StackedMuon(torch.optim.Muon):
    """torch's Muon, with the matrices of one shape in one product.

    Matrix by matrix, a step of a small model waits for 1,600 launches on a GPU; stacked, for a tenth of them.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one step with the gradients at hand."""
        del closure
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    shapes.setdefault(matrix.shape, []).append(matrix)
            for matrices in shapes.values():
                self._step(matrices, group)

    def _step(self, matrices: list[Tensor], group: dict[str, Any]) -> None:
        """Step for matrices of one shape (rows, columns)."""
        lr, momentum = group["lr"], group["momentum"]
        gradients = torch.stack([gradient for matrix in matrices if (gradient := matrix.grad) is not None])
        for matrix in matrices:
            if not self.state[matrix]:
                self.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)
        buffers = [self.state[matrix]["momentum_buffer"] for matrix in matrices]
        moving = torch.stack(buffers).lerp_(gradients, 1 - momentum)
        updates = _orthogonal(gradients.lerp(moving, momentum), group)  # Nesterov's momentum
        scale = lr * MATCHED_RMS * math.sqrt(max(matrices[0].shape))
        for matrix, buffer, moved, update in zip(matrices, buffers, moving, updates, strict=True):
            buffer.copy_(moved)
            matrix.mul_(1 - lr * group["weight_decay"]).add_(update, alpha=-scale)


def _orthogonal(stack: Tensor, group: dict[str, Any]) -> Tensor:
    """Return the nearly orthogonal parts of matrices (n, rows, columns), by Newton and Schulz in bfloat16."""
    a, b, c = group["ns_coefficients"]
    tall = stack.shape[1] > stack.shape[2]
    x = stack.bfloat16().mT if tall else stack.bfloat16()
    x = x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp(min=group["eps"])
    for _ in range(group["ns_steps"]):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class MuonOptimizer(torch.optim.Optimizer):
    """Muon for some matrices and AdamW for all other weights, as one optimizer.

    Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) makes the update of a matrix orthogonal, and
    here as large as AdamW's (Liu et al. 2025, arXiv 2502.16982), so one learning rate serves both. Groups
    and state are those of the two optimizers, held once: a stored state is like that of any other optimizer.
    """

    def __init__(self, matrices: Sequence[Tensor], adamw: torch.optim.AdamW) -> None:
        """Update the matrices with Muon, and the groups of `adamw` with it."""
        muon = _StackedMuon(
            matrices,
            lr=0.0,
            weight_decay=WEIGHT_DECAY,
            momentum=MUON_MOMENTUM,
            adjust_lr_fn="match_rms_adamw",
        )
        self._parts = (muon, adamw)
        super().__init__([*muon.param_groups, *adamw.param_groups], {})
        self._share()

    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one step with the gradients at hand."""
        for part in self._parts:
            part.step(closure)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a stored state, as every optimizer does."""
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        first = 0
        for part in self._parts:
            end = first + len(part.param_groups)
            part.param_groups, part.state = self.param_groups[first:end], self.state
            first = end


def make_optimizer(
    model: nn.Module, *, device: str, kind: str = "adamw", layers: Sequence[nn.Module] = ()
) -> torch.optim.Optimizer:
    """Return an optimizer in which matrices decay, the embedding included, and norms and biases do not.

    AdamW's fused form updates all parameters in one call: on a CPU it saves a tenth of a small model's step.

    Args:
        model: What has the parameters.
        device: Where they are.
        kind: "adamw" for all of them, or "muon": Muon for the matrices of the layers, AdamW for the rest
            (embedding, head, norms, biases).
        layers: The model's layers, for "muon".

    Raises:
        TrainingError: The layers have no matrices, as those of a BDH.

    """
    matrices = [p for layer in layers for p in layer.parameters() if p.dim() == 2] if kind == "muon" else []
    if kind == "muon" and not matrices:
        raise TrainingError(
            "optimizer.kind is 'muon', and the model has no layers with matrices for it; expected 'adamw'"
        )
    taken = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in taken]
    groups = [
        {"params": [p for p in others if p.dim() >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in others if p.dim() < 2], "weight_decay": 0.0},
    ]
    fused = torch.device(device).type in ("cpu", "cuda")
    adamw = torch.optim.AdamW(groups, lr=0.0, betas=BETAS, fused=fused)
    return MuonOptimizer(matrices, adamw) if matrices else adamw


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
