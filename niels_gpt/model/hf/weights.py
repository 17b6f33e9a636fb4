"""Weights under the names of GPT-NeoX and Llama.

RoPE turns adjacent channels (2i, 2i + 1) here, and channels (i, i + D/2) there; the angles are the same. So
the rows of queries and keys are put into another order within each head, and nothing else changes: a
permutation of q and k together leaves every score as it is.

C width, L layers, H heads, D = C // H head width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from niels_gpt.model.config import ModelConfig
from niels_gpt.model.hf.forms import NEOX, form_of

State = dict[str, Tensor]

NEOX_NAMES = {
    "ln1": "input_layernorm",
    "ln2": "post_attention_layernorm",
    "attn.proj": "attention.dense",
    "mlp.fc1": "mlp.dense_h_to_4h",
    "mlp.fc2": "mlp.dense_4h_to_h",
}
LLAMA_NAMES = {
    "ln1": "input_layernorm",
    "ln2": "post_attention_layernorm",
    "attn.proj": "self_attn.o_proj",
    "mlp.fc_g": "mlp.gate_proj",
    "mlp.fc_a": "mlp.up_proj",
    "mlp.fc_out": "mlp.down_proj",
}
"""Parts of a block that are the same on both sides."""


def half_split(qkv: Tensor, cfg: ModelConfig) -> Tensor:
    """(3, H, D, C) of the rows (3 C, C): those of queries and keys with all first ones of a pair in front."""
    q, k, v = qkv.view(3, cfg.H, cfg.D, cfg.C)
    return torch.stack((_halves(q), _halves(k), v))


def _halves(rows: Tensor) -> Tensor:
    H, D, C = rows.shape
    return rows.view(H, D // 2, 2, C).transpose(1, 2).reshape(H, D, C)


def to_hf(state: Mapping[str, Tensor], cfg: ModelConfig) -> State:
    """Return the weights as its form names them; a tied head is left out, as the config says it."""
    neox = form_of(cfg) == NEOX
    found = dict(_neox(state, cfg) if neox else _llama(state, cfg))
    if not cfg.tie_embeddings:
        found["embed_out.weight" if neox else "lm_head.weight"] = state["lm_head.weight"]
    return {name: value.detach().float().cpu().contiguous() for name, value in found.items()}


def _neox(state: Mapping[str, Tensor], cfg: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    yield "gpt_neox.embed_in.weight", state["tok_emb.weight"]
    for part in ("weight", "bias"):
        yield f"gpt_neox.final_layer_norm.{part}", state[f"ln_f.{part}"]
    for n in range(cfg.L):
        ours, theirs = f"blocks.{n}.", f"gpt_neox.layers.{n}."
        # Head by head: its queries, its keys, its values.
        qkv = half_split(state[f"{ours}attn.qkv.weight"], cfg).transpose(0, 1)
        yield f"{theirs}attention.query_key_value.weight", qkv.reshape(-1, cfg.C)
        yield from _renamed(state, ours, theirs, NEOX_NAMES)
        if not cfg.mlp_has_bias:  # GPT-NeoX always has them
            yield f"{theirs}mlp.dense_h_to_4h.bias", torch.zeros(cfg.d_ff)
            yield f"{theirs}mlp.dense_4h_to_h.bias", torch.zeros(cfg.C)


def _llama(state: Mapping[str, Tensor], cfg: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    yield "model.embed_tokens.weight", state["tok_emb.weight"]
    yield "model.norm.weight", state["ln_f.weight"]
    for n in range(cfg.L):
        ours, theirs = f"blocks.{n}.", f"model.layers.{n}."
        qkv = half_split(state[f"{ours}attn.qkv.weight"], cfg).reshape(3, cfg.C, cfg.C)
        for name, rows in zip("qkv", qkv, strict=True):
            yield f"{theirs}self_attn.{name}_proj.weight", rows
        yield from _renamed(state, ours, theirs, LLAMA_NAMES)


def _renamed(
    state: Mapping[str, Tensor], source: str, target: str, names: Mapping[str, str]
) -> Iterator[tuple[str, Tensor]]:
    for ours, theirs in names.items():
        for part in ("weight", "bias"):
            if f"{source}{ours}.{part}" in state:
                yield f"{target}{theirs}.{part}", state[f"{source}{ours}.{part}"]
