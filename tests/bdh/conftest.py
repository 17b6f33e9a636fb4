"""Small BDHs with weights large enough to matter, and an independent float64 forward."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from niels_gpt.kernels.bdh_packing import PackedBDH, pack_bdh
from niels_gpt.model.bdh import BDH, BDHConfig

Array = NDArray[np.float64]
ODD = BDHConfig(n_layer=3, n_embd=20, n_head=2, mlp_internal_dim_multiplier=5, vocab_size=61)
"""Neither width nor latents fill whole vectors."""


def make_model(config: BDHConfig, seed: int = 0) -> BDH:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = BDH(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture(scope="session")
def model() -> BDH:
    return make_model(ODD)


@pytest.fixture(scope="session")
def byte_model() -> BDH:
    return make_model(BDHConfig(n_layer=2, n_embd=32, n_head=4, mlp_internal_dim_multiplier=8))


@pytest.fixture(scope="session")
def packed(model: BDH) -> PackedBDH:
    return pack_bdh(model)


def random_ids(count: int, V: int = 61, seed: int = 3) -> list[int]:
    return np.random.default_rng(seed).integers(0, V, count).tolist()


def normed(x: Array) -> Array:
    centred = x - x.mean()
    return centred / np.sqrt((centred**2).mean() + 1e-5)


def reference_logits(state: Mapping[str, torch.Tensor], config: BDHConfig, ids: list[int]) -> Array:
    """Logits (t, V) from the paper's formulas alone: numpy, float64, one position and one head at a time."""
    w = {name: value.double().numpy() for name, value in state.items()}
    H, C = config.n_head, config.n_embd
    N = config.mlp_internal_dim_multiplier * C // H
    exponents = np.floor(np.arange(N) / 2) * 2 / N
    freqs = (1 / (2.0**16) ** exponents / (2 * np.pi)).astype(np.float32).astype(np.float64)
    turns = np.exp(2j * np.pi * (np.outer(np.arange(len(ids)), freqs[::2]) % 1))  # (t, N / 2)
    x = [normed(w["embed.weight"][i]) for i in ids]
    for _ in range(config.n_layer):
        seen: list[tuple[Array, Array]] = []
        out = []
        for at, v in enumerate(x):
            latents = np.maximum(np.stack([v @ w["encoder"][h] for h in range(H)]), 0)
            pairs = (latents[:, 0::2] + 1j * latents[:, 1::2]) * turns[at]
            gated = []
            for h in range(H):
                mixed = np.zeros(C)
                for other, value in seen:
                    mixed += (pairs[h] * other[h].conj()).real.sum() * value
                gated.append(latents[h] * np.maximum(normed(mixed) @ w["encoder_v"][h], 0))
            seen.append((pairs, v))
            out.append(normed(v + normed(np.concatenate(gated) @ w["decoder"])))
        x = out
    return np.stack(x) @ w["lm_head"]
