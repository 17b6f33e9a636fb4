"""Small models whose weights are large enough to matter."""

from __future__ import annotations

import torch

from niels_gpt.model.config import ModelConfig
from niels_gpt.model.gpt import GPT

FORMS = {
    "layernorm-gelu": ModelConfig(V=61, T=32, C=24, L=3, H=3, d_ff=40),
    "rmsnorm-swiglu": ModelConfig(V=61, T=32, C=24, L=3, H=3, d_ff=40, norm="rmsnorm", mlp="swiglu"),
    "untied": ModelConfig(
        V=61,
        T=32,
        C=24,
        L=2,
        H=2,
        d_ff=40,
        norm="rmsnorm",
        mlp="swiglu",
        tie_embeddings=False,
        rope_theta=500.0,
    ),
}


def make_model(cfg: ModelConfig, seed: int = 0) -> GPT:
    """A model in evaluation mode whose every parameter, norms and biases too, is far from its start."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = GPT(cfg)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model.eval()
