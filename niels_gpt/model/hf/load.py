"""A Hugging Face folder as a checkpoint: GPT-NeoX without parallel residual, or Llama."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from niels_gpt.model.checkpoint import save_checkpoint
from niels_gpt.model.config import ConfigError, ModelConfig, load_json, to_dict
from niels_gpt.model.hf.errors import HFError
from niels_gpt.model.hf.forms import own_config
from niels_gpt.model.hf.text import is_bytes
from niels_gpt.model.hf.weights import State, from_hf
from niels_gpt.model.loading import model_from_checkpoint
from niels_gpt.text.bpe import CONTROL_TOKENS
from niels_gpt.text.hf_bpe import adopt
from niels_gpt.text.load import tokenizer_from_json
from niels_gpt.text.tokenizer import Tokenizer, TokenizerError


def load_folder(folder: Path, target: Path, *, note: Callable[[str], None] = lambda _: None) -> ModelConfig:
    """Write the checkpoint of a folder; HFError (a ValueError) names what has no counterpart here."""
    if not folder.is_dir():
        raise HFError(f"{str(folder)!r} is no folder; give the path of a Hugging Face model folder")
    found = _json(folder / "config.json")
    cfg = own_config(found)
    kv_heads = found.get("num_key_value_heads") or cfg.H
    if not isinstance(kv_heads, int) or kv_heads < 1 or cfg.H % kv_heads:
        raise HFError(f"config.json: num_key_value_heads is {kv_heads!r}, expected a divisor of {cfg.H}")
    if kv_heads != cfg.H:
        note(f"{kv_heads} heads of keys and values, each repeated for {cfg.H // kv_heads} of queries")
    state = from_hf(_weights(folder), cfg, kv_heads=kv_heads)
    tokenizer = _tokenizer(folder, found)
    cfg = _cut_to(tokenizer, cfg, state, note=note)
    content = {"model_state": state, "model_cfg": to_dict(cfg)}
    model = model_from_checkpoint(content, where=str(folder))
    target.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(
        target,
        model_cfg=cfg,
        train_cfg={},
        model=model,
        optimizer=None,
        step=0,
        best_val_loss=None,
        tokenizer=tokenizer,
    )
    return cfg


def _cut_to(
    tokenizer: Tokenizer, cfg: ModelConfig, state: State, *, note: Callable[[str], None]
) -> ModelConfig:
    """Cut the rows that no text reaches, which some models have so that V is a round number."""
    count = tokenizer.vocab_size
    if count > cfg.V:
        raise HFError(f"the tokenizer has {count} ids, the model {cfg.V}: they do not belong together")
    if count < cfg.V:
        note(f"{cfg.V - count} of {cfg.V} ids stand for no piece: cut off")
        for name in ("tok_emb.weight", "lm_head.weight"):
            state[name] = state[name][:count]
    return dataclasses.replace(cfg, V=count)


def _tokenizer(folder: Path, found: Mapping[str, Any]) -> Tokenizer:
    """Return the folder's tokenizer: bytes, one of ours, or another project's."""
    path = folder / "tokenizer.json"
    try:
        text = path.read_text(encoding="utf-8")
        stored = json.loads(text)
        pieces, added = stored["model"]["vocab"], stored.get("added_tokens") or []
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f"{str(path)!r} is no tokenizer: {error}; expected the JSON of a byte-level BPE"
        raise HFError(msg) from error
    names = {token["id"]: token["content"] for token in added}
    try:
        if is_bytes(pieces) and not added:
            return tokenizer_from_json(None)
        if set(CONTROL_TOKENS.values()) <= set(names.values()):
            return tokenizer_from_json(text)
        end = found.get("eos_token_id")
        return adopt(text, end=names.get(end[0] if isinstance(end, list) else end))
    except TokenizerError as error:
        raise HFError(f"{str(path)!r}: {error}") from error


def _weights(folder: Path) -> dict[str, Tensor]:
    index = folder / "model.safetensors.index.json"
    names = sorted(set(_json(index)["weight_map"].values())) if index.is_file() else ["model.safetensors"]
    found: dict[str, Tensor] = {}
    for name in names:
        try:
            found |= load_file(folder / Path(name).name)
        except (OSError, SafetensorError) as error:
            raise HFError(f"cannot read the weights {str(folder / name)!r}: {error}") from error
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        return load_json(path)
    except ConfigError as error:
        raise HFError(str(error)) from error
