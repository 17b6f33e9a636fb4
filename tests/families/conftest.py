"""Small models with weights that matter, as checkpoints."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from niels_gpt.model.checkpoint import save_checkpoint
from niels_gpt.model.config import ModelConfig
from niels_gpt.model.registry import build_model
from niels_gpt.rng import set_seed
from niels_gpt.text.bpe import BPETokenizer, train_bpe
from niels_gpt.text.tokenizer import ByteTokenizer, Tokenizer

MakeCheckpoint = Callable[..., Path]


@pytest.fixture(scope="session")
def transformers() -> Any:
    """The library that is compared with; imported here, and not by every process that collects tests."""
    with warnings.catch_warnings():  # of its own dependencies
        warnings.simplefilter("ignore")
        found = pytest.importorskip("transformers")
    found.logging.set_verbosity_error()
    found.logging.disable_progress_bar()
    return found


@pytest.fixture(scope="session")
def bpe() -> BPETokenizer:
    return train_bpe(["what is a kv-cache? the kv-cache keeps keys and values."] * 3, 280)


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> MakeCheckpoint:
    """Return a maker of checkpoints; norms and biases are off their neutral values, so that each counts."""

    def make(tokenizer: Tokenizer | None = None, **changes: Any) -> Path:
        tokenizer = ByteTokenizer() if tokenizer is None else tokenizer
        sizes = {
            "V": tokenizer.vocab_size,
            "T": 256,
            "C": 32,
            "L": 2,
            "H": 2,
            "d_ff": 48,
            "rope_theta": 500.0,
        }
        cfg = ModelConfig(**sizes | changes)
        set_seed(0)
        model = build_model(cfg)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        path = tmp_path / "model.pt"
        save_checkpoint(
            path, model_cfg=cfg, train_cfg={}, model=model, optimizer=None, step=3, best_val_loss=None,
            tokenizer=tokenizer,
        )  # fmt: skip
        return path

    return make
