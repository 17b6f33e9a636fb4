"""Llama (SmolLM2, TinyLlama, Llama 3.2 and many more), Mistral, StableLM."""

from __future__ import annotations

from niels_gpt.model.families.config_reader import ConfigReader
from niels_gpt.model.families.family import LLAMA_LAYOUT, Family, common_form, rope_of, windows_of
from niels_gpt.model.form import Form


def _llama(c: ConfigReader) -> Form:
    return common_form(c)


def _mistral(c: ConfigReader) -> Form:
    return common_form(c, **windows_of(c, sliding=True))


def _stablelm(c: ConfigReader) -> Form:
    c.expect("use_parallel_residual", only=False)
    c.expect("qk_layernorm", only=False)
    qkv = ("qkv",) if c.flag("use_qkv_bias", default=False) else ()
    return common_form(
        c,
        norm="layernorm",
        norm_eps=c.number("layer_norm_eps", 1e-5),
        rope=(rope_of(c, default_part=0.25),),
        biases=frozenset(("norm", *qkv)),
    )


LLAMA = Family(_llama, LLAMA_LAYOUT, gguf_pairs="adjacent")
MISTRAL = Family(_mistral, LLAMA_LAYOUT)
STABLELM = Family(_stablelm, LLAMA_LAYOUT)
