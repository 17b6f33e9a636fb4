"""From a checkpoint file to a model that is ready to generate, with its tokenizer, template and fingerprint.

Files of the original project say less about themselves: what their config leaves out is read off the names
of their weights. Weights become float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from niels_gpt.model.checkpoint import CheckpointError, load_checkpoint
from niels_gpt.model.config import ConfigError, ModelConfig, config_from_dict
from niels_gpt.model.fingerprint import Fingerprint, fingerprint
from niels_gpt.model.gpt import GPT
from niels_gpt.model.pretrained import read_pretrained
from niels_gpt.model.registry import Model, build_model
from niels_gpt.text.chat_template import Template, template_for
from niels_gpt.text.load import tokenizer_from_json
from niels_gpt.text.tokenizer import Tokenizer, TokenizerError


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """Everything that turns messages into replies, from one file."""

    model: Model
    cfg: ModelConfig
    tokenizer: Tokenizer
    template: Template
    fingerprint: Fingerprint
    step: int
    path: Path

    @property
    def gpt(self) -> GPT:
        """The model for what only a GPT can do; CheckpointError for another architecture."""
        if isinstance(self.model, GPT):
            return self.model
        raise CheckpointError(f"{str(self.path)!r} holds a {self.cfg.arch} model, expected a gpt")


def load_model(path: str | Path, *, device: str = "cpu") -> LoadedModel:
    """Load a checkpoint file, or a directory of `save_pretrained`: float32, evaluation mode, on `device`.

    Raises CheckpointError (a ValueError) for what is missing, foreign, damaged or inconsistent.
    """
    path = Path(path)
    content = read_pretrained(path) if path.is_dir() else load_checkpoint(path, device="cpu")
    model = model_from_checkpoint(content, where=str(path))
    cfg = model.cfg
    try:
        tokenizer = tokenizer_from_json(content.get("tokenizer"))
    except TokenizerError as error:
        raise CheckpointError(f"{str(path)!r}: its tokenizer is damaged: {error}") from error
    if tokenizer.vocab_size != cfg.V:
        held = (
            f"carries a tokenizer of {tokenizer.vocab_size}"
            if "tokenizer" in content
            else "carries no tokenizer"
        )
        msg = f"{str(path)!r} {held}, but its model has V={cfg.V}"
        raise CheckpointError(f"{msg}; save it again with the tokenizer that it was trained on")
    template = template_for(tokenizer)
    return LoadedModel(
        model=model.to(device),
        cfg=cfg,
        tokenizer=tokenizer,
        template=template,
        fingerprint=fingerprint(model, cfg, tokenizer, template),
        step=int(content["step"]),
        path=path,
    )


def model_from_checkpoint(content: Mapping[str, Any], *, where: str) -> Model:
    """Build the float32 model, in evaluation mode on the CPU, of what `load_checkpoint` returned.

    `where` names the file in errors. Leaves torch's global generator as it was. Raises CheckpointError.
    """
    state = _float32_state(content["model_state"], where)
    cfg = _complete_config(content["model_cfg"], state, where)
    if cfg.tie_embeddings and "tok_emb.weight" in state:
        state["lm_head.weight"] = state["tok_emb.weight"]  # some files hold the shared weight once
    with torch.random.fork_rng(devices=[]):
        model = build_model(cfg)
    _check_fit(state, model.state_dict(), where)
    model.load_state_dict(state)
    return model.eval()


def _float32_state(state: Mapping[str, Any], where: str) -> dict[str, Tensor]:
    foreign = [str(name) for name, value in state.items() if not isinstance(value, Tensor)]
    if foreign:
        raise CheckpointError(f"{where!r}: model_state holds no tensor under {', '.join(foreign[:3])}")
    return {name: value.to(torch.float32) for name, value in state.items()}


def _complete_config(model_cfg: Mapping[str, Any], state: Mapping[str, Tensor], where: str) -> ModelConfig:
    """Add to a config what it does not say and the names of the weights do."""
    if "encoder_v" in state:
        try:
            return config_from_dict(ModelConfig, {"arch": "bdh", **model_cfg}, where=f"{where}, model_cfg")
        except ConfigError as error:
            raise CheckpointError(str(error)) from error
    gated = "blocks.0.mlp.fc_g.weight" in state
    head = state.get("lm_head.weight")
    embedding = state.get("tok_emb.weight")
    inferred = {
        "norm": "layernorm" if "ln_f.bias" in state else "rmsnorm",
        "mlp": "swiglu" if gated else "gelu",
        "mlp_bias": ("blocks.0.mlp.fc_out.bias" if gated else "blocks.0.mlp.fc1.bias") in state,
        "tie_embeddings": head is None or (embedding is not None and torch.equal(head, embedding)),
    }
    try:
        return config_from_dict(ModelConfig, {**inferred, **model_cfg}, where=f"{where}, model_cfg")
    except ConfigError as error:
        raise CheckpointError(str(error)) from error


def _check_fit(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    faults = [f"{name} is missing" for name in expected if name not in state]
    faults += [f"{name} is unknown" for name in state if name not in expected]
    faults += [
        f"{name} is {tuple(state[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in state and state[name].shape != value.shape
    ]
    if faults:
        shown = "; ".join(faults[:4]) + (f"; and {len(faults) - 4} more" if len(faults) > 4 else "")
        raise CheckpointError(f"{where!r}: the weights do not fit the config: {shown}")
