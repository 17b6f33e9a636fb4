"""A `gpt` model in the terms of `Form` and `Weights`, so that the kernels need one forward pass for both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from niels_gpt.model.config import NORM_EPS
from niels_gpt.model.form import Form, Rope
from niels_gpt.model.weights import Weight, float32_weight

if TYPE_CHECKING:
    from niels_gpt.model.config import ModelConfig
    from niels_gpt.model.gpt import GPT


def form_of(cfg: ModelConfig) -> Form:
    """Return the form of a `gpt` config; ValueError for another architecture."""
    if cfg.arch != "gpt":
        raise ValueError(f"arch is {cfg.arch!r}, expected 'gpt': only that is a transformer")
    gated = cfg.mlp == "swiglu"
    mlp = ("up", "gate", "down") if gated else ("up", "down")
    biases = (("norm",) if cfg.norm == "layernorm" else ()) + (mlp if cfg.mlp_has_bias else ())
    return Form(
        V=cfg.V,
        T=cfg.T,
        C=cfg.C,
        L=cfg.L,
        H=cfg.H,
        d_ff=cfg.d_ff,
        norm=cfg.norm,
        norm_eps=NORM_EPS,
        rope=(Rope(cfg.rope_theta),),
        mlp="silu" if gated else "gelu",
        gated=gated,
        tied=cfg.tie_embeddings,
        biases=frozenset(biases),
    )


def weights_of(model: GPT) -> dict[str, Weight]:
    """Return the float32 weights of a `gpt` under the names of `niels_gpt.model.weights`; copies."""
    state = {
        name: tensor.detach().cpu().float().numpy().copy() for name, tensor in model.state_dict().items()
    }
    return weights_from_state(model.cfg, state)


def weights_from_state(cfg: ModelConfig, state: Mapping[str, np.ndarray]) -> dict[str, Weight]:
    """Return the float32 arrays of a `gpt` under the names of `niels_gpt.model.weights`; not copied."""
    found: dict[str, np.ndarray] = {}
    gated = cfg.mlp == "swiglu"
    parts = {"ln1": "norms.attn_in", "ln2": "norms.mlp_in", "attn.proj": "proj"}
    parts |= (
        {"mlp.fc_a": "up", "mlp.fc_g": "gate", "mlp.fc_out": "down"}
        if gated
        else {"mlp.fc1": "up", "mlp.fc2": "down"}
    )
    for name, value in state.items():
        if name == "lm_head.weight":
            if not cfg.tie_embeddings:
                found["head.weight"] = value
        elif name.startswith("blocks."):
            _, layer, part = name.split(".", 2)
            owner, _, kind = part.rpartition(".")
            if owner == "attn.qkv":
                for letter, third in zip("qkv", np.split(value, 3), strict=True):
                    found[f"blocks.{layer}.{letter}.weight"] = third
            else:
                found[f"blocks.{layer}.{parts[owner]}.{kind}"] = value
        else:
            found[name] = value
    return {name: float32_weight(value) for name, value in found.items()}
