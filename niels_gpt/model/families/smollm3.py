"""SmolLM3, which turns queries and keys in three of four layers."""

from __future__ import annotations

from niels_gpt.model.families.config_reader import ConfigReader
from niels_gpt.model.families.family import LLAMA_LAYOUT, Family, common_form, rope_of
from niels_gpt.model.form import Form, Rope


def _smollm3(c: ConfigReader) -> Form:
    c.expect("use_sliding_window", only=False)
    interval = max(c.whole("no_rope_layer_interval", 4), 1)
    turned = c.wholes("no_rope_layers") or [int(bool(n % interval)) for n in range(1, interval + 1)]
    kinds = tuple(int(not one) for one in turned)
    return common_form(c, rope=(rope_of(c), Rope(dims=0)), windows=(0, 0), kinds=kinds)


SMOLLM3 = Family(_smollm3, LLAMA_LAYOUT, gguf_pairs="adjacent", gguf_config={"no_rope_layer_interval": 4})
