"""A model as a directory: config.json, model.safetensors and, for a learned vocabulary, tokenizer.json.

The files that other tools expect under these names. A config.json in the terms of the BDH reference is read
too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from niels_gpt.atomic_io import atomic_write, write_text
from niels_gpt.model.config import ConfigError, load_json, to_dict
from niels_gpt.model.safetensors_file import read_safetensors
from niels_gpt.model.stored import CheckpointError, as_weight, stored_bytes
from niels_gpt.model.weights import dequantise

if TYPE_CHECKING:
    from niels_gpt.model.registry import Model
    from niels_gpt.text.tokenizer import Tokenizer

CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
KIND = "niels-gpt"


def save_pretrained(
    model: Model, directory: str | Path, *, tokenizer: Tokenizer | None = None, step: int = 0
) -> None:
    """Write the directory, each file whole or not at all; OSError if it cannot be written."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tied = model.arch == "gpt" and model.cfg.tie_embeddings
    import safetensors.torch  # noqa: PLC0415 - torch

    state = {
        name: value.detach().cpu().contiguous()
        for name, value in model.state_dict().items()
        if not (tied and name == "lm_head.weight")  # the file holds a shared weight once
    }
    stored = None if tokenizer is None else tokenizer.to_json()
    config = {"model_type": KIND, "step": step, "model": to_dict(model.cfg)}
    with atomic_write(directory / WEIGHTS) as file:
        file.write(safetensors.torch.save(state))
    if stored is None:
        (directory / TOKENIZER).unlink(missing_ok=True)
    else:
        write_text(directory / TOKENIZER, stored)
    write_text(directory / CONFIG, json.dumps(config, indent=2) + "\n")


def read_pretrained(directory: Path) -> dict[str, Any]:
    """Return what a checkpoint file of the same model would hold of it; CheckpointError."""
    for name in (CONFIG, WEIGHTS):
        if not (directory / name).is_file():
            raise CheckpointError(
                f"the folder {str(directory)!r} has no {name}; give one that save_pretrained wrote, or a "
                ".pt file"
            )
    try:
        config = load_json(directory / CONFIG)
        model_cfg, step = _model_config(config)
        tensors = read_safetensors(directory / WEIGHTS)
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"{str(directory)!r} is not a model, or is damaged: {error}") from error
    wrong = [name for name, stored in tensors.items() if stored_bytes(stored.kind, stored.shape) is None]
    if wrong:
        raise CheckpointError(
            f"{str(directory)!r}: {wrong[0]!r} is {tensors[wrong[0]].kind}, expected floats"
        )
    state = {name: dequantise(as_weight(stored)) for name, stored in tensors.items()}
    content: dict[str, Any] = {"model_cfg": model_cfg, "model_state": state, "step": step}
    tokenizer = directory / TOKENIZER
    if tokenizer.is_file():
        content["tokenizer"] = tokenizer.read_text(encoding="utf-8")
    return content


def _model_config(config: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    if "n_embd" in config:
        from niels_gpt.model.bdh import BDHConfig  # noqa: PLC0415 - torch

        names = BDHConfig.__dataclass_fields__
        known = {name: value for name, value in config.items() if name in names}
        return to_dict(BDHConfig(**known).model_config), 0
    step, model_cfg = config.get("step", 0), config.get("model")
    if not isinstance(model_cfg, dict) or not isinstance(step, int):
        raise ConfigError(
            f"{CONFIG} has no object 'model' with the sizes, expected what save_pretrained writes"
        )
    return model_cfg, step
