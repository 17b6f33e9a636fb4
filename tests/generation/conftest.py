"""A small model of each architecture, and what it looks like on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from niels_gpt.model.bdh import BDHConfig
from niels_gpt.model.config import ModelConfig
from niels_gpt.model.registry import Model, build_model
from niels_gpt.text.bpe import train_bpe

CONFIGS = {
    "gpt": ModelConfig(T=64, C=24, L=2, H=2, d_ff=40),
    "gpt, untied": ModelConfig(
        T=64, C=24, L=2, H=2, d_ff=40, norm="rmsnorm", mlp="swiglu", tie_embeddings=False
    ),
    "bdh": BDHConfig(n_layer=2, n_embd=20, n_head=2, mlp_internal_dim_multiplier=4).model_config,
}


def make_model(cfg: ModelConfig, seed: int = 1) -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_model(cfg)
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter), alpha=0.2)
    return model.eval()


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest) -> Model:
    return make_model(CONFIGS[request.param])


@pytest.fixture(scope="session")
def bpe():
    return train_bpe(["hello there general kenobi hello hello there there general"] * 3, 270)


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved BDH."""
    path = tmp_path_factory.mktemp("models") / "bdh"
    make_model(CONFIGS["bdh"]).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def gpt_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "gpt"
    make_model(CONFIGS["gpt"]).save_pretrained(path)
    return path
