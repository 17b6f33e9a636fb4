"""GGUF's metadata in the terms of a Hugging Face config, and its names of tensors, shared by all families."""

from __future__ import annotations

from typing import Any

from niels_gpt.model.families.config_reader import ConfigReader
from niels_gpt.model.families.family import Family, Layout
from niels_gpt.model.gguf_file import GGUFFile
from niels_gpt.model.stored import CheckpointError, as_weight
from niels_gpt.model.weights import dequantise

NAMES = {
    "tok_emb": "token_embd",
    "pos_emb": "position_embd",
    "ln_e": "token_embd_norm",
    "ln_f": "output_norm",
    "head": "output",
    "qkv": "blk.{}.attn_qkv",
    "q": "blk.{}.attn_q",
    "k": "blk.{}.attn_k",
    "v": "blk.{}.attn_v",
    "proj": "blk.{}.attn_output",
    "up": "blk.{}.ffn_up",
    "gate": "blk.{}.ffn_gate",
    "down": "blk.{}.ffn_down",
    "norms.attn_in": "blk.{}.attn_norm",
    "norms.attn_out": "blk.{}.post_attention_norm",
    "norms.mlp_in": "blk.{}.ffn_norm",
    "norms.mlp_out": "blk.{}.post_ffw_norm",
    "q_norm": "blk.{}.attn_q_norm",
    "k_norm": "blk.{}.attn_k_norm",
}
RENAMED = {
    "context_length": ("max_position_embeddings", "n_positions"),
    "embedding_length": ("hidden_size", "n_embd"),
    "block_count": ("num_hidden_layers", "n_layer"),
    "feed_forward_length": ("intermediate_size", "n_inner"),
    "attention.head_count": ("num_attention_heads", "n_head"),
    "attention.head_count_kv": ("num_key_value_heads",),
    "attention.key_length": ("head_dim",),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps",),
    "attention.layer_norm_epsilon": ("layer_norm_eps", "layer_norm_epsilon"),
    "attention.sliding_window": ("sliding_window",),
    "attention.scale": ("attention_multiplier",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "rope.freq_base": ("rope_theta",),
    "rope.freq_base_swa": ("rope_local_base_freq",),
    "use_parallel_residual": ("use_parallel_residual",),
    "embedding_scale": ("embedding_multiplier",),
    "residual_scale": ("residual_multiplier",),
    "logit_scale": ("logits_scaling",),
}
SCALING = {
    "rope.scaling.type": "rope_type",
    "rope.scaling.factor": "factor",
    "rope.scaling.original_context_length": "original_max_position_embeddings",
    "rope.scaling.attn_factor": "attention_factor",
    "rope.scaling.yarn_beta_fast": "beta_fast",
    "rope.scaling.yarn_beta_slow": "beta_slow",
}
SCORES_BY_WIDTH = {("gemma2", 46), ("gemma3", 62)}
"""Models, by their number of layers, that scale scores by C / H instead of the width of a head."""
FACTORS = "rope_freqs.weight"


def gguf_layout(family: Family) -> Layout:
    """Return where a family's GGUF files keep our weights."""
    names = dict(NAMES)
    if "gate_up" in family.layout.names:
        names["gate_up"] = names.pop("up")
        del names["gate"]
    return Layout(names, pairs=family.gguf_pairs)


def gguf_config(file: GGUFFile, arch: str, family: Family) -> ConfigReader:
    """Return the metadata of a file as the config of its family."""
    where = str(file.path)
    found = ConfigReader(file.metadata, where)
    values: dict[str, Any] = dict(family.gguf_config)
    for key, names in RENAMED.items():
        value = file.metadata.get(f"{arch}.{key}")
        if isinstance(value, list):
            if len(set(map(str, value))) != 1:
                raise CheckpointError(f"{where!r}: {arch}.{key} differs from layer to layer: not supported")
            value = value[0]
        values |= dict.fromkeys(names, value)
    scaling = {ours: file.metadata.get(f"{arch}.{key}") for key, ours in SCALING.items()}
    if scaling["rope_type"] == "none":
        scaling["rope_type"] = None
    values["rope_parameters"] = {name: value for name, value in scaling.items() if value is not None}
    _add_factors(file, values)
    c = ConfigReader(values, where)
    D = c.whole("head_dim", 0) or c.whole("hidden_size") // max(c.whole("num_attention_heads"), 1)
    turned = found.whole(f"{arch}.rope.dimension_count", D)
    values["partial_rotary_factor"] = turned / D if D else 1.0
    embedding = file.tensors.get("token_embd.weight")
    values["vocab_size"] = embedding.shape[0] if embedding is not None and embedding.shape else 0
    values["tie_word_embeddings"] = "output.weight" not in file.tensors
    values["attention_bias"] = "blk.0.attn_output.bias" in file.tensors
    values["mlp_bias"] = "blk.0.ffn_up.bias" in file.tensors
    values["use_qkv_bias"] = "blk.0.attn_q.bias" in file.tensors
    heads = max(c.whole("num_attention_heads"), 1)
    large = (arch, values["num_hidden_layers"]) in SCORES_BY_WIDTH
    values["query_pre_attn_scalar"] = c.whole("hidden_size") // heads if large else D
    return c


def _add_factors(file: GGUFFile, values: dict[str, Any]) -> None:
    """Take a file's factors for each pair, which stand for Llama 3's scaling."""
    stored = file.tensors.get(FACTORS)
    if stored is None:
        return
    if stored.kind != "f32" or len(stored.shape) != 1:
        raise CheckpointError(f"{str(file.path)!r}: {FACTORS} is {stored.kind} of shape {stored.shape}")
    values["rope_parameters"] = {"rope_type": "factors", "factors": dequantise(as_weight(stored)).tolist()}
