"""Families of published models: what a config means and how the weights are called, one file each.

A new family is a file with its `Family` records and a line in `FAMILIES`; nothing else changes.
"""

from __future__ import annotations

from niels_gpt.model.families import gemma, gpt2, granite, llama, nanochat, neox, olmo, phi, qwen, smollm3
from niels_gpt.model.families.family import Family

FAMILIES: dict[str, Family] = {
    "gemma": gemma.GEMMA,
    "gemma2": gemma.GEMMA2,
    "gemma3_text": gemma.GEMMA3,
    "gpt2": gpt2.GPT2,
    "gpt_neox": neox.NEOX,
    "granite": granite.GRANITE,
    "llama": llama.LLAMA,
    "mistral": llama.MISTRAL,
    "nanochat": nanochat.HF_PORT,
    "olmo": olmo.OLMO,
    "olmo2": olmo.OLMO2,
    "phi": phi.PHI,
    "phi3": phi.PHI3,
    "qwen2": qwen.QWEN2,
    "qwen3": qwen.QWEN3,
    "smollm3": smollm3.SMOLLM3,
    "stablelm": llama.STABLELM,
}
"""By the `model_type` of a Hugging Face config."""

GGUF_ARCHITECTURES: dict[str, str] = {
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
    "gpt2": "gpt2",
    "gptneox": "gpt_neox",
    "granite": "granite",
    "llama": "llama",
    "olmo2": "olmo2",
    "phi2": "phi",
    "phi3": "phi3",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "smollm3": "smollm3",
    "stablelm": "stablelm",
}
"""The family of each `general.architecture` of a GGUF file."""
