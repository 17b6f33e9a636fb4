"""A checkpoint as a folder that `transformers` loads, and whatever else reads such folders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save as safetensors_bytes

from niels_gpt.atomic_io import atomic_write
from niels_gpt.model.hf.errors import HFError
from niels_gpt.model.hf.forms import form_of, hf_config
from niels_gpt.model.hf.text import tokenizer_config, tokenizer_json
from niels_gpt.model.hf.weights import to_hf
from niels_gpt.model.loading import LoadedModel, load_model


def export(source: Path, folder: Path) -> list[Path]:
    """Write a checkpoint as a folder; return the files. HFError (a ValueError): it has no counterpart."""
    loaded = load_model(source)
    cfg = loaded.own_cfg
    form = form_of(cfg)
    if folder.exists() and not folder.is_dir():
        raise HFError(f"{str(folder)!r} is a file; give the path of a folder to write")
    folder.mkdir(parents=True, exist_ok=True)
    end_id = min(loaded.template.stop_ids, default=None)
    weights = safetensors_bytes(to_hf(loaded.model.state_dict(), cfg), metadata={"format": "pt"})
    content: dict[str, bytes] = {
        "config.json": _json(hf_config(cfg, end_id=end_id)),
        "generation_config.json": _json(_generation_config(loaded, end_id)),
        "model.safetensors": weights,
        "tokenizer.json": tokenizer_json(loaded.tokenizer).encode(),
        "tokenizer_config.json": _json(tokenizer_config(loaded.tokenizer, T=cfg.T)),
        "README.md": _card(loaded, form, source).encode(),
    }
    for name, data in content.items():
        with atomic_write(folder / name) as file:
            file.write(data)
    return [folder / name for name in content]


def _generation_config(loaded: LoadedModel, end_id: int | None) -> dict[str, Any]:
    """Return the chat's defaults; a reply may hold no other control token than the one that ends it."""
    config: dict[str, Any] = {
        "do_sample": True,
        "temperature": 0.9,
        "top_k": 50,
        "eos_token_id": end_id,
        "pad_token_id": end_id,
    }
    banned = sorted(loaded.template.banned_ids)
    return config | ({"suppress_tokens": banned} if banned else {})


def _card(loaded: LoadedModel, form: str, source: Path) -> str:
    stops = ", ".join(repr(stop.decode()) for stop in loaded.template.stop_sequences)
    end = f"\nA reply ends before one of the texts {stops}: pass them as stop strings.\n" if stops else ""
    return (
        f"# {source.stem}\n\nA niels-gpt model after {loaded.step:,} steps, as {form} in float32.\n{end}\n"
        f"Fingerprint: `{loaded.fingerprint.digest}`\n\n"
        "Talk to it: `niels-chat --ckpt DIR`\n"
    )


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
