"""Phi-1, Phi-1.5 and Phi-2; Phi-3 and Phi-4 mini without long-context factors."""

from __future__ import annotations

from niels_gpt.model.families.config_reader import ConfigReader
from niels_gpt.model.families.family import (
    LLAMA_NAMES,
    Family,
    Layout,
    activation_of,
    common_form,
    rope_of,
    windows_of,
)
from niels_gpt.model.form import Form

PHI_NAMES = LLAMA_NAMES | {
    "ln_f": "model.final_layernorm",
    "proj": "model.layers.{}.self_attn.dense",
    "up": "model.layers.{}.mlp.fc1",
    "down": "model.layers.{}.mlp.fc2",
}
PHI3_NAMES = LLAMA_NAMES | {
    "qkv": "model.layers.{}.self_attn.qkv_proj",
    "gate_up": "model.layers.{}.mlp.gate_up_proj",
}


def _phi(c: ConfigReader) -> Form:
    c.expect("qk_layernorm", only=False)
    return common_form(
        c,
        norm="layernorm",
        norm_eps=c.number("layer_norm_eps", 1e-5),
        norms=("attn_in",),
        mlp=activation_of(c, "hidden_act", "gelu_new"),
        gated=False,
        parallel="one",
        rope=(rope_of(c, default_part=0.5),),
        biases=frozenset(("qkv", "proj", "up", "down", "norm", "head")),
    )


def _phi3(c: ConfigReader) -> Form:
    return common_form(c, **windows_of(c, sliding=True))


PHI = Family(_phi, Layout(PHI_NAMES, prefix="model."))
PHI3 = Family(_phi3, Layout(PHI3_NAMES, prefix="model."))
