"""Weights under the names of GPT-NeoX and Llama, and back.

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
from niels_gpt.model.hf.errors import HFError
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


def adjacent(rows: Tensor) -> Tensor:
    """Undo the order of `half_split`: rows (H, D, C) of queries or of keys with pairs side by side again."""
    H, D, C = rows.shape
    return rows.view(H, 2, D // 2, C).transpose(1, 2).reshape(H, D, C)


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


def from_hf(found: Mapping[str, Tensor], cfg: ModelConfig, *, kv_heads: int) -> State:
    """Return our weights of a folder's; HFError for names that are missing or have no counterpart.

    Where fewer keys and values than queries were stored, each is repeated for the queries that share it.
    """
    neox = form_of(cfg) == NEOX
    rest = {name: value.float() for name, value in found.items() if not _is_derived(name)}
    state = _from_neox(rest, cfg) if neox else _from_llama(rest, cfg, kv_heads)
    head = rest.pop("embed_out.weight" if neox else "lm_head.weight", None)
    if cfg.tie_embeddings:
        state["lm_head.weight"] = state["tok_emb.weight"]
    elif head is None:
        raise HFError("the weights lack a head, and the config does not tie it to the embedding")
    else:
        state["lm_head.weight"] = head
    if rest:
        raise HFError(f"the weight {min(rest)!r} has no counterpart here")
    return state


def _is_derived(name: str) -> bool:
    """Whether a tensor follows from the config: masks and angles, which older versions stored."""
    return name.endswith(("rotary_emb.inv_freq", "attention.bias", "attention.masked_bias"))


def _from_neox(rest: State, cfg: ModelConfig) -> State:
    state = {"tok_emb.weight": _take(rest, "gpt_neox.embed_in.weight")}
    for part in ("weight", "bias"):
        state[f"ln_f.{part}"] = _take(rest, f"gpt_neox.final_layer_norm.{part}")
    for n in range(cfg.L):
        ours, theirs = f"blocks.{n}.", f"gpt_neox.layers.{n}."
        qkv = _take(rest, f"{theirs}attention.query_key_value.weight")
        q, k, v = _shaped(qkv, (cfg.H, 3, cfg.D, cfg.C), theirs).transpose(0, 1)
        state[f"{ours}attn.qkv.weight"] = _joined(q, k, v, cfg)
        for name in ("query_key_value", "dense"):
            _must_be_zero(rest, f"{theirs}attention.{name}.bias")
        if not cfg.mlp_has_bias:
            for name in ("dense_h_to_4h", "dense_4h_to_h"):
                _must_be_zero(rest, f"{theirs}mlp.{name}.bias")
        state |= _taken(rest, ours, theirs, NEOX_NAMES)
    return state


def _from_llama(rest: State, cfg: ModelConfig, kv_heads: int) -> State:
    state = {
        "tok_emb.weight": _take(rest, "model.embed_tokens.weight"),
        "ln_f.weight": _take(rest, "model.norm.weight"),
    }
    for n in range(cfg.L):
        ours, theirs = f"blocks.{n}.", f"model.layers.{n}."
        rows = {name: _take(rest, f"{theirs}self_attn.{name}_proj.weight") for name in "qkv"}
        q = _shaped(rows["q"], (cfg.H, cfg.D, cfg.C), theirs)
        k, v = (
            _shaped(rows[name], (kv_heads, cfg.D, cfg.C), theirs).repeat_interleave(cfg.H // kv_heads, dim=0)
            for name in "kv"
        )
        state[f"{ours}attn.qkv.weight"] = _joined(q, k, v, cfg)
        for name in "qkvo":
            _must_be_zero(rest, f"{theirs}self_attn.{name}_proj.bias")
        state |= _taken(rest, ours, theirs, LLAMA_NAMES)
    return state


def _joined(q: Tensor, k: Tensor, v: Tensor, cfg: ModelConfig) -> Tensor:
    return torch.stack((adjacent(q), adjacent(k), v)).reshape(3 * cfg.C, cfg.C)


def _taken(rest: State, ours: str, theirs: str, names: Mapping[str, str]) -> State:
    state: State = {}
    for own, name in names.items():
        state[f"{ours}{own}.weight"] = _take(rest, f"{theirs}{name}.weight")
        if f"{theirs}{name}.bias" in rest:
            state[f"{ours}{own}.bias"] = rest.pop(f"{theirs}{name}.bias")
    return state


def _take(rest: State, name: str) -> Tensor:
    if name not in rest:
        raise HFError(f"the weight {name!r} is missing")
    return rest.pop(name)


def _shaped(value: Tensor, shape: tuple[int, ...], where: str) -> Tensor:
    if value.numel() != torch.Size(shape).numel():
        raise HFError(
            f"the attention weights of {where!r} are {tuple(value.shape)}, expected room for {shape}"
        )
    return value.view(shape)


def _must_be_zero(rest: State, name: str) -> None:
    bias = rest.pop(name, None)
    if bias is not None and bias.any():
        raise HFError(f"the bias {name!r} is not zero, and has no counterpart here")
