"""A tiny run for the training tests: two dialogues, a few thousand weights, an observer that records."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from niels_gpt.model.config import ModelConfig, TrainConfig
from niels_gpt.model.gpt import GPT
from niels_gpt.rng import set_seed
from niels_gpt.text.chat_template import template_for
from niels_gpt.text.tokenizer import ByteTokenizer
from niels_gpt.train.dialogue_data import Example, ExampleData, encode_dialogue
from niels_gpt.train.dialogues import Dialogue, parse_dialogues
from niels_gpt.train.loop import EvalReport, Run, StepReport
from niels_gpt.train.loss import TrainingForward
from niels_gpt.train.optimizer import make_optimizer

TINY_TEXT = (
    "system: be brief\nuser: who is niels?\nassistant: a man.\n"
    "\n\n<dialogue>\n\n"
    "system: be brief\nuser: what is rope?\nassistant: it turns pairs.\nuser: why?\nassistant: for order.\n"
)


@dataclass
class Recorder:
    """An observer that keeps everything it is told."""

    steps: list[StepReport] = field(default_factory=list)
    evaluations: list[EvalReport] = field(default_factory=list)

    def stepped(self, report: StepReport) -> None:
        self.steps.append(report)

    def evaluated(self, report: EvalReport) -> None:
        self.evaluations.append(report)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def dialogues() -> list[Dialogue]:
    return parse_dialogues(TINY_TEXT, where="test")


@pytest.fixture
def model_cfg() -> ModelConfig:
    return ModelConfig(V=256, T=128, C=32, L=2, H=2, d_ff=48, dropout=0.0, norm="rmsnorm", mlp="swiglu")


@pytest.fixture
def model(model_cfg: ModelConfig) -> GPT:
    set_seed(0)
    return GPT(model_cfg)


@pytest.fixture
def examples(dialogues: list[Dialogue], model_cfg: ModelConfig) -> list[Example]:
    template = template_for(ByteTokenizer())
    encoded = [encode_dialogue(dialogue, template, T=model_cfg.T) for dialogue in dialogues]
    return [example for example in encoded if example is not None]


@pytest.fixture
def make_run(examples: list[Example], tmp_path: Path) -> Callable[..., Run]:
    def make(model: GPT, **changes: Any) -> Run:
        settings: dict[str, Any] = {
            "seed": 1,
            "B": 1,
            "total_steps": 6,
            "eval_every": 2,
            "ckpt_every": 2,
            "log_every": 2,
            "base_lr": 1e-2,
            "min_lr": 1e-3,
            "warmup_steps": 2,
        }
        cfg = TrainConfig(**settings | changes.pop("train", {}))
        held_out, kind = changes.pop("held_out", examples), changes.pop("kind", "adamw")
        run: dict[str, Any] = {
            "model": model,
            "forward": TrainingForward(model),
            "optimizer": make_optimizer(model, device="cpu", kind=kind, layers=model.layers()),
            "optimizer_kind": kind,
            "tokenizer": ByteTokenizer(),
            "model_cfg": model.cfg,
            "train_cfg": cfg,
            "data": ExampleData(examples, held_out, places=cfg.B * model.cfg.T, seed=cfg.seed),
            "out": tmp_path / "out",
        }
        return Run(**run | changes)

    return make


@pytest.fixture
def config_file(tmp_path: Path) -> Callable[..., Path]:
    """Return a maker of configuration files over the two dialogues; sections replace the usual ones."""

    def make(**sections: Any) -> Path:
        primer = tmp_path / "primer.txt"
        primer.write_text(TINY_TEXT, encoding="utf-8")
        usual: dict[str, Any] = {
            "model": {"V": 300, "T": 256, "C": 16, "L": 1, "H": 2, "d_ff": 16, "dropout": 0.1},
            "train": {"seed": 1, "B": 1, "total_steps": 4, "eval_every": 2, "ckpt_every": 2, "log_every": 2},
            "data": {
                "dialogues": [str(primer)],
                "val_frac": 0.5,
                "tokenizer": {"kind": "bpe", "vocab_size": 270},
            },
        }
        path = tmp_path / "config.json"
        path.write_text(json.dumps(usual | sections), encoding="utf-8")
        return path

    return make
