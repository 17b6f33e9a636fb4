"""Gemma 1, Gemma 2 and the text models of Gemma 3."""

from __future__ import annotations

from typing import Any

import numpy as np

from niels_gpt.model.families.config_reader import ConfigReader
from niels_gpt.model.families.family import (
    LLAMA_NAMES,
    SANDWICH,
    Family,
    Layout,
    activation_of,
    common_form,
    layer_types,
    rope_of,
)
from niels_gpt.model.form import Form, Rope

LOCAL_THETA = 10000.0
NAMES = LLAMA_NAMES | {
    "norms.attn_out": "model.layers.{}.post_attention_layernorm",
    "norms.mlp_in": "model.layers.{}.pre_feedforward_layernorm",
    "norms.mlp_out": "model.layers.{}.post_feedforward_layernorm",
}


def _gemma(c: ConfigReader, **changes: Any) -> Form:
    return common_form(
        c,
        mlp=activation_of(c, "hidden_activation", "gelu_pytorch_tanh"),
        embed_scale=float(np.float32(c.whole("hidden_size") ** 0.5)),
        tied=c.flag("tie_word_embeddings", default=True),
        **changes,
    )


def _sandwiched(c: ConfigReader, kinds: tuple[int, ...], **changes: Any) -> Form:
    return _gemma(
        c,
        norms=SANDWICH,
        windows=(c.whole("sliding_window"), 0),
        kinds=kinds,
        score_scale=c.number("query_pre_attn_scalar") ** -0.5,
        score_cap=c.number("attn_logit_softcapping", 0.0),
        head_cap=c.number("final_logit_softcapping", 0.0),
        **changes,
    )


def _kinds(c: ConfigReader, period: int) -> tuple[int, ...]:
    """Return 1 for layers that see everything: as `layer_types` says, or the last of each period."""
    types = layer_types(c) or [
        "sliding_attention" if (layer + 1) % period else "full_attention"
        for layer in range(min(c.whole("num_hidden_layers"), 4096))
    ]
    return tuple(int(one == "full_attention") for one in types)


def _gemma2(c: ConfigReader) -> Form:
    return _sandwiched(c, _kinds(c, 2), rope=(rope_of(c),) * 2)


def _gemma3(c: ConfigReader) -> Form:
    c.expect("use_bidirectional_attention", only=False)
    both = c.section("rope_parameters")
    if both.has("sliding_attention"):
        ropes = tuple(rope_of(c, both.section(kind)) for kind in ("sliding_attention", "full_attention"))
    else:
        ropes = (Rope(c.number("rope_local_base_freq", LOCAL_THETA)), rope_of(c))
    period = max(c.whole("sliding_window_pattern", 6), 1)
    return _sandwiched(c, _kinds(c, period), rope=ropes, qk_norm="head")


GEMMA = Family(_gemma, Layout(LLAMA_NAMES, prefix="model.", one_plus=True))
GEMMA2 = Family(_gemma2, Layout(NAMES, prefix="model.", one_plus=True))
GEMMA3 = Family(_gemma3, Layout(NAMES, prefix="model.", one_plus=True))
