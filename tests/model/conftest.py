"""Fixtures of small models in both forms, and an independent float64 forward."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from niels_gpt.model.config import ModelConfig
from niels_gpt.model.gpt import GPT
from tests.model.models import FORMS, make_model

Array = NDArray[np.float64]


@pytest.fixture(params=FORMS.values(), ids=FORMS.keys())
def model(request: pytest.FixtureRequest) -> GPT:
    return make_model(request.param)


@pytest.fixture
def gelu_model() -> GPT:
    return make_model(FORMS["layernorm-gelu"])


@pytest.fixture
def new_model() -> Callable[..., GPT]:
    return make_model


def random_ids(*shape: int, V: int = 61, seed: int = 3) -> torch.Tensor:
    return torch.randint(0, V, shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def some_ids() -> Callable[..., torch.Tensor]:
    return random_ids


@pytest.fixture
def float64_logits() -> Callable[[Mapping[str, torch.Tensor], ModelConfig, list[int]], Array]:
    return reference_logits


Weights = Mapping[str, Array]


def norm(w: Weights, x: Array, name: str) -> Array:
    if f"{name}.bias" in w:
        centred = x - x.mean(-1, keepdims=True)
        variance = (centred**2).mean(-1, keepdims=True)
        return centred / np.sqrt(variance + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * w[f"{name}.weight"]


def linear(w: Weights, x: Array, name: str) -> Array:
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)


def mlp(w: Weights, x: Array, name: str) -> Array:
    if f"{name}.fc_g.weight" in w:
        gate = linear(w, x, f"{name}.fc_g")
        return linear(w, gate / (1 + np.exp(-gate)) * linear(w, x, f"{name}.fc_a"), f"{name}.fc_out")
    h = linear(w, x, f"{name}.fc1")
    return linear(w, h * 0.5 * (1 + np.vectorize(math.erf)(h / math.sqrt(2))), f"{name}.fc2")


def attention(w: Weights, x: Array, name: str, cfg: ModelConfig) -> Array:
    t, C, D = len(x), cfg.C, cfg.C // cfg.H
    turns = np.exp(1j * np.outer(np.arange(t), cfg.rope_theta ** (-np.arange(0, D, 2) / D)))  # (t, D/2)

    def turned(y: Array) -> Array:
        z = (y[:, 0::2] + 1j * y[:, 1::2]) * turns
        return np.stack([z.real, z.imag], -1).reshape(t, D)

    qkv, out = linear(w, x, f"{name}.qkv"), np.zeros((t, C))
    for head in range(cfg.H):
        q, k, v = (qkv[:, part * C + head * D : part * C + (head + 1) * D] for part in range(3))
        q, k = turned(q), turned(k)
        for i in range(t):
            weights = np.exp(k[: i + 1] @ q[i] / math.sqrt(D))
            out[i, head * D : (head + 1) * D] = weights / weights.sum() @ v[: i + 1]
    return linear(w, out, f"{name}.proj")


def reference_logits(state: Mapping[str, torch.Tensor], cfg: ModelConfig, ids: list[int]) -> Array:
    """Logits (t, V) of one sequence from the formulas alone: numpy, float64, one position at a time."""
    w = {name: value.double().numpy() for name, value in state.items()}
    x = w["tok_emb.weight"][ids]
    for layer in range(cfg.L):
        block = f"blocks.{layer}"
        x = x + attention(w, norm(w, x, f"{block}.ln1"), f"{block}.attn", cfg)
        x = x + mlp(w, norm(w, x, f"{block}.ln2"), f"{block}.mlp")
    return norm(w, x, "ln_f") @ w["lm_head.weight"].T
