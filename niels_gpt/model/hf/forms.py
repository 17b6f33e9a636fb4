"""Which models map to which Hugging Face architecture, as configs in both directions.

LayerNorm and GELU make a GPT-NeoX without parallel residual and with full rotary embedding; RMSNorm and
SwiGLU make a Llama. Everything else has no counterpart and is refused by name.

V vocabulary, T context window, C width, L layers, H heads, d_ff width of the MLP.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from niels_gpt.model.config import NORM_EPS, ConfigError, ModelConfig, config_from_dict, to_dict
from niels_gpt.model.hf.errors import HFError

OWN_KEY = "niels_gpt"
"""Where an exported config keeps ours, so that nothing has to be guessed on the way back."""

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
        OWN_KEY: to_dict(cfg),
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


def own_config(found: Mapping[str, Any]) -> ModelConfig:
    """Return our config of a config.json; HFError that names the first thing that has no counterpart here."""
    form = found.get("model_type")
    if not isinstance(form, str) or form not in FORMS.values():
        raise HFError(f"model_type is {form!r}, expected {' or '.join(map(repr, FORMS.values()))}")
    _check(found, form)
    if OWN_KEY in found:
        own = found[OWN_KEY]
        try:
            return config_from_dict(ModelConfig, own, where=f"config.json, {OWN_KEY!r}")
        except ConfigError as error:
            raise HFError(str(error)) from error
    norm, mlp = next(ours for ours, theirs in FORMS.items() if theirs == form)
    try:
        return ModelConfig(
            V=found["vocab_size"],
            T=found["max_position_embeddings"],
            C=found["hidden_size"],
            L=found["num_hidden_layers"],
            H=found["num_attention_heads"],
            d_ff=found["intermediate_size"],
            dropout=0.0,
            rope_theta=float(_rope(found).get("rope_theta", 10000.0)),
            norm=norm,
            mlp=mlp,
            tie_embeddings=found.get("tie_word_embeddings", False),
            mlp_bias=True if form == NEOX else found.get("mlp_bias", False),
        )
    except KeyError as error:
        raise HFError(f"config.json lacks {error}, expected the config of a {form} model") from error
    except ConfigError as error:
        raise HFError(f"config.json: {error}") from error


def _check(found: Mapping[str, Any], form: str) -> None:
    rope = _rope(found)
    _expect("rope_type", rope.get("rope_type", "default"), "default")
    if form == NEOX:
        if found.get("use_parallel_residual", True):
            raise HFError(
                "config.json: use_parallel_residual is true: attention and MLP side by side have no "
                "counterpart here; expected false"
            )
        _expect("partial_rotary_factor", rope.get("partial_rotary_factor", 0.25), 1.0)
        _expect("hidden_act", found.get("hidden_act", "gelu"), "gelu")
        _expect("layer_norm_eps", found.get("layer_norm_eps", 1e-5), NORM_EPS)
        return
    heads, width = found.get("num_attention_heads"), found.get("hidden_size")
    if isinstance(heads, int) and isinstance(width, int) and heads > 0:
        _expect("head_dim", found.get("head_dim") or width // heads, width // heads)
    _expect("hidden_act", found.get("hidden_act", "silu"), "silu")
    _expect("rms_norm_eps", found.get("rms_norm_eps", 1e-6), NORM_EPS)


def _rope(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rotary settings under their newer names, whichever version wrote them."""
    older = {
        "rope_theta": found.get("rope_theta", found.get("rotary_emb_base")),
        "partial_rotary_factor": found.get("partial_rotary_factor", found.get("rotary_pct")),
    }
    scaling = found.get("rope_scaling") or {}
    if scaling:
        older["rope_type"] = scaling.get("rope_type", scaling.get("type"))
    newer = found.get("rope_parameters") or {}
    return {name: value for name, value in (older | newer).items() if value is not None}


def _expect(name: str, value: object, *expected: object) -> None:
    if value not in expected:
        wanted = " or ".join(map(repr, expected))
        raise HFError(f"config.json: {name} is {value!r}, which has no counterpart here; expected {wanted}")
