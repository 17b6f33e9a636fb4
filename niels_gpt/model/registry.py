"""The architectures by name, and the one place that makes a model from its config.

Whoever adds an architecture adds a row here and its defaults to `config.ARCHITECTURES`.
"""

from __future__ import annotations

from niels_gpt.model.bdh import BDH
from niels_gpt.model.config import ModelConfig
from niels_gpt.model.gpt import GPT

Model = GPT | BDH

MODELS: dict[str, type[Model]] = {"gpt": GPT, "bdh": BDH}


def build_model(cfg: ModelConfig) -> Model:
    """Make the model that a config describes; its weights start from torch's global generator."""
    return MODELS[cfg.arch](cfg)
