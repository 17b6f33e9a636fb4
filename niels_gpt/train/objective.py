"""The loss of a batch: cross-entropy of the replies' tokens, and its mean over held-out batches.

The head runs where something is learned and nowhere else; with 2,048 pieces it would otherwise be a sixth of
the work. Knows nothing about optimizers, steps or files.

N learned tokens of a batch, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from niels_gpt.model.gpt import GPT
from niels_gpt.train.batches import Batch


def logits_at(model: GPT, batch: Batch, places: Tensor, *, amp: bool) -> Tensor:
    """Return the logits (N, V) float32 at `places` (B, t) bool, row by row; `amp` computes in bfloat16.

    On a CPU in bfloat16 the blocks are asked for their probabilities: that path is two plain matrix products,
    and a training step with it is 1.2 times as fast there as with the fused attention.
    """
    device = batch.inputs.device.type
    explicit = amp and device == "cpu"
    with torch.autocast(device, dtype=torch.bfloat16, enabled=amp):
        h = model.embed(batch.inputs)
        for block in model.layers():
            h = block(h, return_attn=True)[0] if explicit else block(h)
        return model.head(h[places])


def batch_loss(model: GPT, batch: Batch, *, amp: bool = False, prompt_weight: float = 0.0) -> Tensor:
    """Return the mean cross-entropy over the replies' tokens, in nats, as a scalar that can go backward.

    `prompt_weight` times the mean over the prompts' tokens is added. A model that knows no other text learns
    from it which words keep company, so that it understands questions in words of its own.
    """
    if not prompt_weight or not batch.prompt.any():
        logits = logits_at(model, batch, batch.learned, amp=amp)
        return functional.cross_entropy(logits, batch.targets[batch.learned])
    places = batch.learned | batch.prompt
    logits = logits_at(model, batch, places, amp=amp)
    losses = functional.cross_entropy(logits, batch.targets[places], reduction="none")
    of_reply = batch.learned[places]
    return losses[of_reply].mean() + prompt_weight * losses[~of_reply].mean()


def mean_loss(model: GPT, batches: Sequence[Batch], *, device: str | torch.device) -> float:
    """Return the mean loss per learned token over all batches, in float32 and without dropout."""
    total, count = 0.0, 0
    with evaluating(model), torch.inference_mode():
        for batch in batches:
            n = int(batch.learned.sum())
            total += n * batch_loss(model, batch.to(device)).item()
            count += n
    return total / count


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch a model to evaluation, and back to what it was on every way out."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
