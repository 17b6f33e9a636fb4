"""The architectures by name, and the one place that makes a model from its config.

A new architecture is a row here and its defaults in `config.ARCHITECTURES`. A `Transformer` is made of a
`Form` instead (`niels_gpt.model.transformer`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from niels_gpt.model.bdh import BDH
from niels_gpt.model.config import ModelConfig
from niels_gpt.model.gpt import GPT
from niels_gpt.model.rope import rope_cache
from niels_gpt.model.transformer import Transformer

Model = GPT | BDH
"""The architectures that can be trained here."""
AnyModel = Model | Transformer

MODELS: dict[str, type[GPT] | type[BDH]] = {"gpt": GPT, "bdh": BDH}


def build_model(cfg: ModelConfig) -> GPT | BDH:
    """Make the model that a config describes; its weights start from torch's global generator."""
    return MODELS[cfg.arch](cfg)


def model_of_state(cfg: ModelConfig, state: Mapping[str, np.ndarray]) -> GPT | BDH:
    """Make the model of float32 weights, in evaluation mode on the CPU.

    The weights are copied, and no random number is drawn.

    Args:
        cfg: its config.
        state: all of its state dict, checked (`niels_gpt.model.state.fitted_state`).

    """
    with torch.device("meta"):
        model = build_model(cfg)
    tensors = {name: torch.from_numpy(np.array(value, np.float32)) for name, value in state.items()}
    model.load_state_dict(tensors, assign=True)
    if isinstance(model, GPT):
        if cfg.tie_embeddings:
            model.lm_head.weight = model.tok_emb.weight
        sin, cos = rope_cache(cfg.T, cfg.D, theta=cfg.rope_theta)
        for layer in model.layers():  # buffers that no file holds
            layer.attn.rope_sin, layer.attn.rope_cos = sin, cos
    return model.eval()
