"""OLMo and OLMo 2."""

from __future__ import annotations

from niels_gpt.model.families.config_reader import ConfigReader
from niels_gpt.model.families.family import LLAMA_NAMES, Family, Layout, common_form
from niels_gpt.model.form import Form

WITHOUT_NORMS = {
    name: theirs for name, theirs in LLAMA_NAMES.items() if "norm" not in name and name != "ln_f"
}
AFTER = {name: theirs for name, theirs in LLAMA_NAMES.items() if not name.startswith("norms.")} | {
    "norms.attn_out": "model.layers.{}.post_attention_layernorm",
    "norms.mlp_out": "model.layers.{}.post_feedforward_layernorm",
}


def _olmo(c: ConfigReader) -> Form:
    c.expect("clip_qkv", only=None)
    return common_form(c, norm="layernorm", norm_eps=1e-5)


def _olmo2(c: ConfigReader) -> Form:
    return common_form(c, norms=("attn_out", "mlp_out"), qk_norm="row")


OLMO = Family(_olmo, Layout(WITHOUT_NORMS, prefix="model."))
OLMO2 = Family(_olmo2, Layout(AFTER, prefix="model."))
