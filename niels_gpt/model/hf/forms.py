"""Which models map to which Hugging Face architecture, and its config.

LayerNorm and GELU make a GPT-NeoX without parallel residual and with full rotary embedding; RMSNorm and
SwiGLU make a Llama. Everything else has no counterpart and is refused by name.

V vocabulary, T context window, C width, L layers, H heads, d_ff width of the MLP.
"""

from __future__ import annotations

from typing import Any

from niels_gpt.model.config import NORM_EPS, ModelConfig
from niels_gpt.model.hf.errors import HFError

NEOX, LLAMA = "gpt_neox", "llama"
FORMS = {("layernorm", "gelu"): NEOX, ("rmsnorm", "swiglu"): LLAMA}


def form_of(cfg: ModelConfig) -> str:
    """Return the architecture that a model maps to; HFError where there is none."""
    if cfg.arch != "gpt":
        raise HFError(f"arch={cfg.arch!r} has no counterpart in transformers, expected 'gpt'")
    form = FORMS.get((cfg.norm, cfg.mlp))
    if form is None:
        known = " or ".join(f"norm={norm!r} with mlp={mlp!r} ({form})" for (norm, mlp), form in FORMS.items())
        raise HFError(f"norm={cfg.norm!r} with mlp={cfg.mlp!r} has no counterpart; expected {known}")
    return form


def hf_config(cfg: ModelConfig, *, end_id: int | None = None) -> dict[str, Any]:
    """Return config.json of a model; `end_id` ends a reply. HFError where the model has no counterpart."""
    form = form_of(cfg)
    rope = {"rope_type": "default", "rope_theta": cfg.rope_theta}
    shared = {
        "model_type": form,
        "vocab_size": cfg.V,
        "max_position_embeddings": cfg.T,
        "hidden_size": cfg.C,
        "num_hidden_layers": cfg.L,
        "num_attention_heads": cfg.H,
        "intermediate_size": cfg.d_ff,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": cfg.tie_embeddings,
        "bos_token_id": None,
        "eos_token_id": end_id,
        "pad_token_id": end_id,
        "torch_dtype": "float32",
    }
    if form == NEOX:
        return {
            "architectures": ["GPTNeoXForCausalLM"],
            **shared,
            "hidden_act": "gelu",
            "hidden_dropout": 0.0,
            "layer_norm_eps": NORM_EPS,
            "use_parallel_residual": False,
            # Older versions and other programs read these two, newer ones the third.
            "rotary_pct": 1.0,
            "rotary_emb_base": cfg.rope_theta,
            "rope_parameters": {**rope, "partial_rotary_factor": 1.0},
        }
    return {
        "architectures": ["LlamaForCausalLM"],
        **shared,
        "hidden_act": "silu",
        "rms_norm_eps": NORM_EPS,
        "num_key_value_heads": cfg.H,
        "head_dim": cfg.D,
        "mlp_bias": cfg.mlp_has_bias,
        "rope_theta": cfg.rope_theta,
        "rope_parameters": rope,
    }
