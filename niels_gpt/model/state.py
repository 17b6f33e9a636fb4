"""The weights of our own checkpoints as float32 arrays by name, checked against the config they come with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from niels_gpt.model.config import ConfigError, ModelConfig, config_from_dict
from niels_gpt.model.families.mapping import without_wrappers
from niels_gpt.model.stored import CheckpointError

State = dict[str, np.ndarray]
LEFT_BEHIND = ("_raw",)
"""Keys in the model config of the original's trainer that say nothing about the model."""


def float32_state(state: Mapping[str, Any], where: str) -> State:
    """Return a state dict as float32 arrays; `where` names its file in errors. CheckpointError."""
    found: State = {}
    for name, value in without_wrappers({str(name): value for name, value in state.items()}).items():
        if isinstance(value, np.ndarray):
            found[name] = value.astype(np.float32, copy=False)
        elif hasattr(value, "float32"):  # a stored tensor
            found[name] = value.float32()
        elif hasattr(value, "detach"):  # a tensor of torch
            found[name] = value.detach().cpu().float().numpy()
        else:
            raise CheckpointError(f"{where!r}: model_state holds no tensor under {name}")
    return found


def complete_config(model_cfg: Mapping[str, Any], state: State, where: str) -> ModelConfig:
    """Add to a config what it does not say and the names of the weights do. CheckpointError."""
    given = {name: value for name, value in model_cfg.items() if name not in LEFT_BEHIND}
    inferred: dict[str, Any] = {"arch": "bdh"}
    if "encoder_v" not in state:
        gated = "blocks.0.mlp.fc_g.weight" in state
        head, embedding = state.get("lm_head.weight"), state.get("tok_emb.weight")
        inferred = {
            "norm": "layernorm" if "ln_f.bias" in state else "rmsnorm",
            "mlp": "swiglu" if gated else "gelu",
            "mlp_bias": ("blocks.0.mlp.fc_out.bias" if gated else "blocks.0.mlp.fc1.bias") in state,
            "tie_embeddings": head is None or (embedding is not None and np.array_equal(head, embedding)),
        }
    try:
        return config_from_dict(ModelConfig, {**inferred, **given}, where=f"{where}, model_cfg")
    except ConfigError as error:
        raise CheckpointError(str(error)) from error


def fitted_state(cfg: ModelConfig, state: State, where: str) -> State:
    """Return a state with exactly the weights of a config; CheckpointError names what does not fit."""
    state = dict(state)
    if cfg.arch == "gpt" and cfg.tie_embeddings and "tok_emb.weight" in state:
        state["lm_head.weight"] = state["tok_emb.weight"]  # some files hold the shared weight once
    if len(state) < cfg.L and cfg.arch == "gpt":
        raise CheckpointError(
            f"{where!r}: its config has L={cfg.L} layers, and it holds {len(state)} weights"
        )
    expected = state_shapes(cfg)
    unknown = [f"{name} is unknown" for name in state if name not in expected]
    faults = [f"{name} is missing" for name in expected if name not in state]
    faults += [
        f"{name} is {state[name].shape} instead of {shape}"
        for name, shape in expected.items()
        if name in state and state[name].shape != shape
    ]
    faults = [*faults[:3], *unknown[:1], *faults[3:], *unknown[1:]]
    if faults:
        shown = "; ".join(faults[:4]) + (f"; and {len(faults) - 4} more" if len(faults) > 4 else "")
        raise CheckpointError(f"{where!r}: the weights do not fit the config: {shown}")
    return state


def state_shapes(cfg: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes in the state dict of a config's model."""
    C, V = cfg.C, cfg.V
    if cfg.arch == "bdh":
        N = cfg.d_ff // cfg.H
        return {
            "decoder": (cfg.d_ff, C),
            "encoder": (cfg.H, C, N),
            "encoder_v": (cfg.H, C, N),
            "lm_head": (C, V),
            "embed.weight": (V, C),
            "attn.freqs": (1, 1, 1, N),
        }
    gated, bias, norm_bias = cfg.mlp == "swiglu", cfg.mlp_has_bias, cfg.norm == "layernorm"
    up, down = ("fc_a", "fc_out") if gated else ("fc1", "fc2")
    shapes: dict[str, tuple[int, ...]] = {"tok_emb.weight": (V, C), "lm_head.weight": (V, C)}
    for layer in range(cfg.L):
        block = f"blocks.{layer}"
        shapes |= _norm(f"{block}.ln1", C, bias=norm_bias)
        shapes |= {f"{block}.attn.qkv.weight": (3 * C, C), f"{block}.attn.proj.weight": (C, C)}
        shapes |= _norm(f"{block}.ln2", C, bias=norm_bias)
        for name in (up, "fc_g") if gated else (up,):
            shapes |= _linear(f"{block}.mlp.{name}", cfg.d_ff, C, bias=bias)
        shapes |= _linear(f"{block}.mlp.{down}", C, cfg.d_ff, bias=bias)
    return shapes | _norm("ln_f", C, bias=norm_bias)


def _linear(name: str, rows: int, columns: int, *, bias: bool) -> dict[str, tuple[int, ...]]:
    weight: dict[str, tuple[int, ...]] = {f"{name}.weight": (rows, columns)}
    return weight | {f"{name}.bias": (rows,)} if bias else weight


def _norm(name: str, width: int, *, bias: bool) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{part}": (width,) for part in (("weight", "bias") if bias else ("weight",))}


def transformer_lm_state(content: Mapping[str, Any], where: str) -> State:
    """Return our state of a course's TransformerLM: `{model, optimizer, iteration}` or a bare state dict.

    Its layers are our RMSNorm and SwiGLU form under other names, with q, k and v apart.

    Raises:
        CheckpointError: a weight is missing or is not a tensor.

    """
    found = content.get("model", content)
    if not isinstance(found, Mapping) or "token_embeddings.weight" not in without_wrappers(found):
        raise CheckpointError(
            f"{where!r} holds neither a checkpoint of ours nor the weights of a TransformerLM"
        )
    theirs = float32_state(found, where)
    state: State = {}
    for ours, name in (("tok_emb", "token_embeddings"), ("ln_f", "ln_final"), ("lm_head", "lm_head")):
        state[f"{ours}.weight"] = _taken(theirs, f"{name}.weight", where)
    layer = 0
    while f"layers.{layer}.ln1.weight" in theirs:
        block, source = f"blocks.{layer}", f"layers.{layer}"
        rows = [_taken(theirs, f"{source}.attn.{letter}_proj.weight", where) for letter in "qkv"]
        state[f"{block}.attn.qkv.weight"] = np.concatenate(rows)
        for ours, name in TRANSFORMER_LM_NAMES.items():
            state[f"{block}.{ours}.weight"] = _taken(theirs, f"{source}.{name}.weight", where)
        layer += 1
    return state


TRANSFORMER_LM_NAMES = {
    "ln1": "ln1",
    "ln2": "ln2",
    "attn.proj": "attn.output_proj",
    "mlp.fc_g": "ffn.w1",
    "mlp.fc_a": "ffn.w3",
    "mlp.fc_out": "ffn.w2",
}


def _taken(state: State, name: str, where: str) -> np.ndarray:
    if name not in state:
        raise CheckpointError(f"{where!r} has no weight {name!r}")
    return state[name]
