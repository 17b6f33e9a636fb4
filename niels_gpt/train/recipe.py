"""The configuration file of a training run, read strictly: every key is known or named in an error.

`{"model": {...}, "train": {...}, "data": {...}, "compute": {...}}`; the first two are `niels_gpt.config`'s.
Knows nothing about tensors: it says what to train on and how, and nothing is opened but the file itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from niels_gpt.config import ModelConfig, TrainConfig, config_from_dict, load_json
from niels_gpt.train.errors import TrainingError

SECTIONS = ("model", "train", "data", "compute")
TOKENIZER_KINDS = ("bpe", "bytes")
AMPS = ("bf16", None)


@dataclass(frozen=True, kw_only=True)
class TokenizerPlan:
    """Where the tokenizer comes from: bytes, a BPE trained on the training dialogues, or a stored BPE."""

    kind: str = "bpe"
    vocab_size: int = 2048
    path: Path | None = None


@dataclass(frozen=True, kw_only=True)
class DataPlan:
    """What to learn: files of dialogues, the share of dialogues that is held out, the tokenizer."""

    dialogues: tuple[Path, ...]
    val_frac: float = 0.05
    prompt_weight: float = 0.0
    """How much the loss on the prompts' tokens counts beside that on the replies'; 0 learns replies alone."""
    tokenizer: TokenizerPlan = TokenizerPlan()


@dataclass(frozen=True, kw_only=True)
class ComputePlan:
    """How to compute: "bf16" runs matrix products in bfloat16 and keeps weights in float32."""

    amp: str | None = None
    threads: int | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole configuration file."""

    model: ModelConfig
    train: TrainConfig
    data: DataPlan
    compute: ComputePlan


def load_recipe(path: Path) -> Recipe:
    """Read and check a configuration; TrainingError or ConfigError (ValueErrors) name what is wrong."""
    raw = load_json(path)
    _only(raw, SECTIONS, where=f"{path}")
    return Recipe(
        model=config_from_dict(ModelConfig, raw.get("model", {}), where=f"{path}, section 'model'"),
        train=config_from_dict(TrainConfig, raw.get("train", {}), where=f"{path}, section 'train'"),
        data=_data(_section(raw, "data", where=f"{path}")),
        compute=_compute(_section(raw, "compute", where=f"{path}")),
    )


def _data(section: _Section) -> DataPlan:
    section.only("dialogues", "val_frac", "prompt_weight", "tokenizer")
    files = section.get("dialogues", None)
    names = [files] if isinstance(files, str) else files
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise section.fault("dialogues", files, "the path of a file of dialogues, or a list of them")
    val_frac = section.get("val_frac", DataPlan.val_frac)
    if not isinstance(val_frac, (int, float)) or not math.isfinite(val_frac) or not 0 <= val_frac < 1:
        raise section.fault("val_frac", val_frac, "a share in [0, 1)")
    prompt_weight = section.get("prompt_weight", DataPlan.prompt_weight)
    if not isinstance(prompt_weight, (int, float)) or not 0 <= prompt_weight <= 1:
        raise section.fault("prompt_weight", prompt_weight, "a weight in [0, 1]")
    return DataPlan(
        dialogues=tuple(map(Path, names)),
        val_frac=float(val_frac),
        prompt_weight=float(prompt_weight),
        tokenizer=_tokenizer(_section(section.values, "tokenizer", where=section.where)),
    )


def _tokenizer(section: _Section) -> TokenizerPlan:
    section.only("kind", "vocab_size", "path")
    kind, path = section.get("kind", TokenizerPlan.kind), section.get("path", None)
    if kind not in TOKENIZER_KINDS:
        raise section.fault("kind", kind, f"one of {', '.join(TOKENIZER_KINDS)}")
    vocab_size = section.whole("vocab_size", TokenizerPlan.vocab_size)
    if path is not None and not isinstance(path, str):
        raise section.fault("path", path, "the path of a tokenizer that niels_gpt.bpe wrote")
    return TokenizerPlan(kind=kind, vocab_size=vocab_size, path=None if path is None else Path(path))


def _compute(section: _Section) -> ComputePlan:
    section.only("amp", "threads")
    amp = section.get("amp", None)
    if amp not in AMPS:
        raise section.fault("amp", amp, '"bf16" or null')
    threads = None if section.get("threads", None) is None else section.whole("threads", 1)
    return ComputePlan(amp=amp, threads=threads)


@dataclass(frozen=True)
class _Section:
    """One object of the file, and its place in it for errors."""

    values: Mapping[str, Any]
    where: str

    def only(self, *keys: str) -> None:
        _only(self.values, keys, where=self.where)

    def get(self, key: str, default: object) -> Any:
        return self.values.get(key, default)

    def whole(self, key: str, default: int) -> int:
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.fault(key, value, "a whole number of at least 1")
        return value

    def fault(self, key: str, value: object, expected: str) -> TrainingError:
        return TrainingError(f"{self.where}: {key} is {value!r}, expected {expected}")


def _section(raw: Mapping[str, Any], name: str, *, where: str) -> _Section:
    values = raw.get(name, {})
    if not isinstance(values, Mapping):
        raise TrainingError(f"{where}, section {name!r}: expected an object with keys, got {values!r}")
    return _Section(values, f"{where}, section {name!r}")


def _only(values: Mapping[str, Any], valid: tuple[str, ...], *, where: str) -> None:
    unknown = [repr(key) for key in values if key not in valid]
    if unknown:
        raise TrainingError(f"{where}: unknown keys {', '.join(unknown)}; valid keys are {', '.join(valid)}")
