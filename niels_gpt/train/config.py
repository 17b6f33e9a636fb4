"""The configuration file of a training run, read strictly: every key is known or named in an error.

`{"model": {...}, "train": {...}, "data": {...}, "compute": {...}}`; the first two are those of
`niels_gpt.model.config`, and a file of those two alone trains on streams of bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from niels_gpt.model.config import ModelConfig, TrainConfig, config_from_dict, load_json
from niels_gpt.train.config_reader import Section, only
from niels_gpt.train.stream_config import STREAM_KEYS, StreamPlan, stream_plan

SECTIONS = ("model", "train", "data", "compute")
DIALOGUE_KEYS = ("dialogues", "val_frac", "prompt_weight", "tokenizer")
TOKENIZER_KINDS = ("bpe", "bytes")
AMPS = ("auto", "bf16", None)
PARALLELS = ("ddp", "fsdp2")


@dataclass(frozen=True, kw_only=True)
class TokenizerPlan:
    """Where the tokenizer comes from: bytes, a BPE trained on the training dialogues, or a stored BPE."""

    kind: str = "bpe"
    vocab_size: int = 2048
    path: Path | None = None


@dataclass(frozen=True, kw_only=True)
class DataPlan:
    """What to learn: dialogues, of which replies count, or, where none are named, streams of bytes."""

    dialogues: tuple[Path, ...] = ()
    val_frac: float = 0.05
    prompt_weight: float = 0.0
    """How much the loss on the prompts' tokens counts beside that on the replies'; 0 learns replies alone."""
    tokenizer: TokenizerPlan = TokenizerPlan()
    streams: StreamPlan = field(default_factory=StreamPlan)


@dataclass(frozen=True, kw_only=True)
class ComputePlan:
    """How to compute; nothing here changes what is learned, but for rounding."""

    amp: str | None = "auto"
    """"bf16" runs matrix products in bfloat16 and keeps weights in float32; "auto" where the device gains."""
    threads: int | None = None
    compile: bool = False
    """Whether torch compiles the blocks."""
    accumulation_steps: int = 1
    """Parts that a batch is computed in, one after the other, to save memory."""
    activation_checkpointing: bool = False
    """Whether blocks are computed again on the way back, to save memory."""
    parallel: str = "ddp"
    """How several processes share the work: each holds the model ("ddp") or a part of it ("fsdp2")."""


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
    only(raw, SECTIONS, where=f"{path}")
    whole = Section(raw, f"{path}")
    return Recipe(
        model=config_from_dict(ModelConfig, raw.get("model", {}), where=f"{path}, section 'model'"),
        train=config_from_dict(TrainConfig, raw.get("train", {}), where=f"{path}, section 'train'"),
        data=_data(whole.section("data")),
        compute=_compute(whole.section("compute")),
    )


def _data(section: Section) -> DataPlan:
    if "dialogues" not in section.values:
        if any(key in DIALOGUE_KEYS for key in section.values):
            raise section.fault("dialogues", None, "the path of a file of dialogues, or a list of them")
        section.only("dialogues", *STREAM_KEYS)
        return DataPlan(streams=stream_plan(section))
    section.only(*DIALOGUE_KEYS)
    return DataPlan(
        dialogues=section.paths("dialogues", "the path of a file of dialogues, or a list of them"),
        val_frac=section.share("val_frac", DataPlan.val_frac),
        prompt_weight=section.weight("prompt_weight", DataPlan.prompt_weight),
        tokenizer=_tokenizer(section.section("tokenizer")),
    )


def _tokenizer(section: Section) -> TokenizerPlan:
    section.only("kind", "vocab_size", "path")
    return TokenizerPlan(
        kind=section.one_of("kind", TokenizerPlan.kind, TOKENIZER_KINDS),
        vocab_size=section.whole("vocab_size", TokenizerPlan.vocab_size),
        path=section.path("path", None, "the path of a tokenizer that niels_gpt.text.bpe wrote"),
    )


def _compute(section: Section) -> ComputePlan:
    section.only(*ComputePlan.__dataclass_fields__)
    amp = section.get("amp", ComputePlan.amp)
    if amp not in AMPS:
        raise section.fault("amp", amp, '"auto", "bf16" or null')
    threads = None if section.get("threads", None) is None else section.whole("threads", 1)
    return ComputePlan(
        amp=amp,
        threads=threads,
        compile=section.flag("compile", ComputePlan.compile),
        accumulation_steps=section.whole("accumulation_steps", ComputePlan.accumulation_steps),
        activation_checkpointing=section.flag(
            "activation_checkpointing", ComputePlan.activation_checkpointing
        ),
        parallel=section.one_of("parallel", ComputePlan.parallel, PARALLELS),
    )
