"""What a family is: a function from its config to a `Form`, and the names and order of its weights.

The functions here read what most configs share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from niels_gpt.model.families.config_reader import ConfigReader
from niels_gpt.model.form import Form, Rope
from niels_gpt.model.stored import CheckpointError

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_fast": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
    "silu": "silu",
    "swish": "silu",
}
SANDWICH = ("attn_in", "attn_out", "mlp_in", "mlp_out")


@dataclass(frozen=True)
class Layout:
    """Where a family's files keep our weights.

    `names` maps our names, without `blocks.N.` and `.weight`, to theirs; `{}` is the layer. "qkv" and
    "gate_up" name matrices that hold several of ours. A norm that is not named has no weights: they are 1.
    """

    names: Mapping[str, str]
    prefix: str = ""
    """What some files leave out at the start of every name."""
    pairs: Literal["halves", "adjacent", "swapped"] = "halves"
    """Which channels of q and k are turned together: i and i + d/2, adjacent ones, or the first with the
    second half before the first (a rotation the other way)."""
    qkv: Literal["thirds", "heads"] = "thirds"
    """Rows of "qkv": all of q, of k and of v, or q, k and v of each head."""
    transposed: bool = False
    """Whether matrices are (in, out)."""
    one_plus: bool = False
    """Whether norms multiply by 1 + weight."""


@dataclass(frozen=True)
class Family:
    """A family of models."""

    form: Callable[[ConfigReader], Form]
    layout: Layout
    gguf_pairs: Literal["halves", "adjacent"] = "halves"
    """Order of q and k in GGUF files."""
    gguf_config: Mapping[str, Any] = field(default_factory=dict)
    """Values that the family's GGUF files do not say."""


LLAMA_NAMES = {
    "tok_emb": "model.embed_tokens",
    "ln_f": "model.norm",
    "head": "lm_head",
    "q": "model.layers.{}.self_attn.q_proj",
    "k": "model.layers.{}.self_attn.k_proj",
    "v": "model.layers.{}.self_attn.v_proj",
    "proj": "model.layers.{}.self_attn.o_proj",
    "up": "model.layers.{}.mlp.up_proj",
    "gate": "model.layers.{}.mlp.gate_proj",
    "down": "model.layers.{}.mlp.down_proj",
    "norms.attn_in": "model.layers.{}.input_layernorm",
    "norms.mlp_in": "model.layers.{}.post_attention_layernorm",
    "q_norm": "model.layers.{}.self_attn.q_norm",
    "k_norm": "model.layers.{}.self_attn.k_norm",
}
LLAMA_LAYOUT = Layout(LLAMA_NAMES, prefix="model.")


def common_form(c: ConfigReader, **changes: Any) -> Form:
    """Return the form of a config with the names that most families share, Llama's meaning of them.

    Args:
        c: the config.
        changes: fields that differ.

    """
    attention = ("qkv", "proj") if c.flag("attention_bias", default=False) else ()
    mlp = ("up", "gate", "down") if c.flag("mlp_bias", default=False) else ()
    values: dict[str, Any] = {
        "V": c.whole("vocab_size"),
        "T": c.whole("max_position_embeddings"),
        "C": c.whole("hidden_size"),
        "L": c.whole("num_hidden_layers"),
        "H": c.whole("num_attention_heads"),
        "d_ff": c.whole("intermediate_size"),
        "KV": c.whole("num_key_value_heads", 0),
        "D": c.whole("head_dim", 0),
        "norm": "rmsnorm",
        "norm_eps": c.number("rms_norm_eps", 1e-6) if "norm_eps" not in changes else 0.0,
        "rope": (rope_of(c),) if "rope" not in changes else (),
        "mlp": activation_of(c, "hidden_act", "silu") if "mlp" not in changes else "silu",
        "gated": True,
        "tied": c.flag("tie_word_embeddings", default=False),
        "biases": frozenset((*attention, *mlp)),
    }
    values |= changes
    if len(values["rope"]) == 1:  # the same for all kinds of layers
        values["rope"] *= len(values.get("windows", (0,)))
    return Form(**values)


def activation_of(c: ConfigReader, name: str, default: str) -> str:
    """Return our name of the activation under `name`."""
    found = c.text(name, default)
    if found not in ACTIVATIONS:
        raise CheckpointError(f"{c.where}: {name} is {found!r}, expected one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[found]


def rope_of(c: ConfigReader, parameters: ConfigReader | None = None, *, default_part: float = 1.0) -> Rope:
    """Return the rotary embedding of a config, whichever version wrote it.

    Args:
        c: the config.
        parameters: its section on rotary embedding, where it has several.
        default_part: share of a head's channels that turn where the config does not say.

    """
    newer = c.section("rope_parameters") if parameters is None else parameters
    p = ConfigReader({**c.section("rope_scaling").values, **newer.values}, f"{c.where}, rope_parameters")
    theta = p.number("rope_theta", c.number("rope_theta", c.number("rotary_emb_base", 10000.0)))
    part = p.number(
        "partial_rotary_factor", c.number("partial_rotary_factor", c.number("rotary_pct", default_part))
    )
    D = c.whole("head_dim", 0) or c.whole("hidden_size") // max(c.whole("num_attention_heads"), 1)
    dims = None if part == 1.0 else int(D * part)
    return Rope(theta, dims, _scaling(c, p))


def _scaling(c: ConfigReader, p: ConfigReader) -> tuple[Any, ...]:
    kind = p.text("rope_type", p.text("type", "default"))
    if kind == "default":
        return ("default",)
    if kind == "factors":
        return ("factors", *p.values["factors"])
    factor = p.number("factor") if kind in {"linear", "llama3", "yarn"} else 1.0
    if kind == "linear":
        return ("linear", factor)
    old = p.whole("original_max_position_embeddings", c.whole("max_position_embeddings"))
    if kind == "llama3":
        return ("llama3", factor, p.number("low_freq_factor"), p.number("high_freq_factor"), old)
    if kind == "yarn":
        p.expect("truncate", only=True)
        fast, slow = p.number("beta_fast", 32), p.number("beta_slow", 1)
        return ("yarn", factor, old, fast, slow, _attention_factor(p, factor))
    raise CheckpointError(
        f"{p.where}: rope_type is {kind!r}, which is not supported; expected default, linear, llama3 or yarn"
    )


def _attention_factor(p: ConfigReader, factor: float) -> float:
    if p.has("attention_factor"):
        return p.number("attention_factor")

    def grown(scale: float) -> float:
        return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0

    if p.has("mscale") and p.has("mscale_all_dim"):
        return grown(p.number("mscale")) / grown(p.number("mscale_all_dim"))
    return grown(1.0)


def windows_of(c: ConfigReader, *, sliding: bool) -> dict[str, Any]:
    """Return `windows` and `kinds` of a config whose `layer_types` may name layers with a window.

    Args:
        c: the config.
        sliding: whether layers slide where `layer_types` is absent; `max_window_layers` do not.

    """
    types = layer_types(c)
    if not types:
        if not sliding or not c.has("sliding_window"):
            return {}
        full = min(c.whole("max_window_layers", 0), c.whole("num_hidden_layers"))
        types = ["full_attention"] * full + ["sliding_attention"] * (c.whole("num_hidden_layers") - full)
    if "sliding_attention" not in types:
        return {}
    kinds = tuple(int(one == "full_attention") for one in types)
    return {"windows": (c.whole("sliding_window"), 0), "kinds": kinds}


def layer_types(c: ConfigReader) -> list[str]:
    """Return `layer_types`, one for each layer, or an empty list."""
    types = c.texts("layer_types")
    unknown = sorted(set(types) - {"full_attention", "sliding_attention"})
    if unknown:
        raise CheckpointError(f"{c.where}: layer_types has {unknown[0]!r}, which is not supported")
    if types and len(types) != c.whole("num_hidden_layers"):
        raise CheckpointError(f"{c.where}: layer_types has {len(types)} layers, not num_hidden_layers")
    return types
