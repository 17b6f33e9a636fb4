"""Granite 3, dense."""

from __future__ import annotations

from niels_gpt.model.families.config_reader import ConfigReader
from niels_gpt.model.families.family import LLAMA_LAYOUT, Family, common_form
from niels_gpt.model.form import Form


def _granite(c: ConfigReader) -> Form:
    return common_form(
        c,
        embed_scale=c.number("embedding_multiplier", 1.0),
        residual_scale=c.number("residual_multiplier", 1.0),
        head_scale=1.0 / (c.number("logits_scaling", 1.0) or 1.0),
        score_scale=c.number("attention_multiplier", 1.0),
    )


GRANITE = Family(_granite, LLAMA_LAYOUT, gguf_pairs="adjacent")
