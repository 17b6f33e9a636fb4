"""GPT-NeoX and Pythia."""

from __future__ import annotations

from niels_gpt.model.families.config_reader import ConfigReader
from niels_gpt.model.families.family import Family, Layout, activation_of, common_form, rope_of
from niels_gpt.model.form import Form

NAMES = {
    "tok_emb": "gpt_neox.embed_in",
    "ln_f": "gpt_neox.final_layer_norm",
    "head": "embed_out",
    "norms.attn_in": "gpt_neox.layers.{}.input_layernorm",
    "norms.mlp_in": "gpt_neox.layers.{}.post_attention_layernorm",
    "qkv": "gpt_neox.layers.{}.attention.query_key_value",
    "proj": "gpt_neox.layers.{}.attention.dense",
    "up": "gpt_neox.layers.{}.mlp.dense_h_to_4h",
    "down": "gpt_neox.layers.{}.mlp.dense_4h_to_h",
}


def _neox(c: ConfigReader) -> Form:
    attention = ("qkv", "proj") if c.flag("attention_bias", default=True) else ()
    return common_form(
        c,
        norm="layernorm",
        norm_eps=c.number("layer_norm_eps", 1e-5),
        mlp=activation_of(c, "hidden_act", "gelu"),
        gated=False,
        parallel="two" if c.flag("use_parallel_residual", default=True) else "",
        rope=(rope_of(c, default_part=0.25),),
        biases=frozenset(("up", "down", "norm", *attention)),
    )


NEOX = Family(_neox, Layout(NAMES, prefix="gpt_neox.", qkv="heads"))
