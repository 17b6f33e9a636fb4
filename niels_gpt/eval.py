"""The loss of a model on a stream, the same number for the same seed.

Knows nothing about training steps or where the stream comes from.

B batch, T tokens a window.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from niels_gpt.batching import get_batch
from niels_gpt.model.mode import eval_mode
from niels_gpt.rng import make_generator


@torch.no_grad()
def eval_loss_on_stream(
    model: torch.nn.Module,
    *,
    stream: bytes | bytearray | memoryview,
    B: int,
    T: int,
    device: str,
    eval_steps: int,
    seed: int,
) -> float:
    """Return the mean cross-entropy, in nats a token, over `eval_steps` batches of windows drawn with `seed`.

    The model is in evaluation mode meanwhile and has its own mode back afterwards, also after an exception.
    Raises ValueError for fewer than one step, or a stream that is no longer than T.
    """
    if eval_steps < 1:
        raise ValueError(f"eval_steps is {eval_steps!r}, expected at least 1")
    generator = make_generator(seed)
    total = 0.0
    with eval_mode(model):
        for _ in range(eval_steps):
            x, y = get_batch(
                {"stream": stream}, p={"stream": 1.0}, B=B, T=T, device=device, generator=generator
            )
            logits = model(x)  # (B, T, V)
            total += functional.cross_entropy(logits.flatten(0, 1), y.flatten()).item()
    return total / eval_steps
