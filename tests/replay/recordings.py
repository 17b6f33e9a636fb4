"""A tiny model whose weights are a formula over integers: the same on every machine and in every version."""

from __future__ import annotations

import numpy as np
import torch

from niels_gpt.config import ModelConfig
from niels_gpt.model.gpt import GPT


def integer_model(*, V: int = 256, T: int = 48) -> GPT:
    """A model in evaluation mode, its weights multiples of 1/256 from a multiplicative congruence."""
    cfg = ModelConfig(V=V, T=T, C=16, L=2, H=2, d_ff=24, norm="rmsnorm", mlp="swiglu")
    with torch.random.fork_rng(devices=[]):
        model = GPT(cfg)
    state = 1
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            count = parameter.numel()
            numbers = np.empty(count, np.float32)
            for i in range(count):
                state = state * 48271 % 2147483647
                numbers[i] = (state >> 8) % 257 - 128
            # Norm scales around 1, so that the signal lives; matrices large enough to have opinions.
            scaled = 1 + numbers / 512 if parameter.dim() == 1 else numbers / 256
            parameter.copy_(torch.from_numpy(scaled).reshape(parameter.shape))
    return model.eval()
