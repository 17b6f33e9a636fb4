"""Qwen2, Qwen2.5 and Qwen3, dense."""

from __future__ import annotations

from niels_gpt.model.families.config_reader import ConfigReader
from niels_gpt.model.families.family import LLAMA_LAYOUT, Family, common_form, windows_of
from niels_gpt.model.form import Form


def _qwen2(c: ConfigReader) -> Form:
    windows = windows_of(c, sliding=c.flag("use_sliding_window", default=False))
    return common_form(c, biases=frozenset(("qkv",)), **windows)


def _qwen3(c: ConfigReader) -> Form:
    windows = windows_of(c, sliding=c.flag("use_sliding_window", default=False))
    return common_form(c, qk_norm="head", **windows)


QWEN2 = Family(_qwen2, LLAMA_LAYOUT)
QWEN3 = Family(_qwen3, LLAMA_LAYOUT)
