"""Read the configuration file of a training run strictly: every key is known, or named in an error.

The file is `{"model": {...}, "train": {...}, "optimizer": {...}, "data": {...}, "compute": {...}}`. The first
two sections are those of `niels_gpt.model.config`. A file of those two alone trains on streams of bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from niels_gpt.model.config import SECTIONS, ModelConfig, TrainConfig, config_from_dict, load_json
from niels_gpt.paths import PRIMER_PATH, REPO_ROOT, ROAM_DIR
from niels_gpt.train.errors import TrainingError

STREAM_CACHE = REPO_ROOT / "data" / "cache" / "streams"
DEFAULT_SOURCES = ("wiki", "roam", "primer")
REQUIRED = "wiki"
"""The source that a run needs unless the configuration says otherwise; the others are used where found."""


def _not_empty(value: object) -> object:
    if value == "":
        raise ValueError("empty")
    return value


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


# The description of a field completes the sentence "KEY is VALUE, expected ...".
NonEmptyPath = Annotated[Path, BeforeValidator(_not_empty)]
Share = Annotated[float, Field(strict=True, ge=0, lt=1, description="a share in [0, 1)")]
Weight = Annotated[float, Field(strict=True, ge=0, le=1, description="a weight in [0, 1]")]
Count = Annotated[int, Field(strict=True, ge=1, description="a whole number of at least 1")]
Flag = Annotated[bool, Field(strict=True, description="true or false")]
Names = Annotated[tuple[str, ...] | None, Field(description="a list of names")]
Folder = Annotated[NonEmptyPath, Field(description="the path of a folder")]
DialogueFiles = Annotated[
    tuple[NonEmptyPath, ...],
    BeforeValidator(_as_list),
    Field(min_length=1, description="the path of a file of dialogues, or a list of them"),
]


class Section(BaseModel):
    """One object of the file; immutable, and without room for unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=False)

    @classmethod
    def parse(cls, values: object, *, where: str) -> Self:
        """Return the validated section.

        Raises:
            TrainingError: A key is unknown or a value is wrong; `where` names the section in the message.

        """
        if not isinstance(values, Mapping):
            raise TrainingError(f"{where}: expected an object with keys, got {values!r}")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise TrainingError(_message(cls, values, error, where=where)) from error


class TokenizerConfig(Section):
    """Where the tokenizer comes from: bytes, a BPE trained on the training dialogues, or a stored BPE."""

    kind: Literal["bpe", "bytes"] = Field(default="bpe", description="one of bpe, bytes")
    vocab_size: Count = 2048
    path: NonEmptyPath | None = Field(
        default=None, description="the path of a tokenizer that niels_gpt.text.bpe wrote"
    )


class DialogueConfig(Section):
    """A run on dialogues, of which the replies are learned."""

    dialogues: DialogueFiles
    val_frac: Share = 0.05
    prompt_weight: Weight = 0.0
    """Weight of the loss on the prompts' tokens, relative to that on the replies; 0 learns replies alone."""
    pad_to: Count = 1
    """Rows are padded to a multiple of this many tokens; fewer shapes of batches suit a GPU."""
    tokenizer: TokenizerConfig = TokenizerConfig()


class StreamConfig(Section):
    """A run on streams of bytes: which sources, where they lie, which may be missing."""

    enabled_sources: Names = None
    required_sources: Names = None
    allow_missing_sources: Flag = False
    force_rebuild: Flag = False
    roam_root: Folder = ROAM_DIR
    primer_path: NonEmptyPath = Field(default=PRIMER_PATH, description="the path of a file")
    cache_dir: Folder = STREAM_CACHE
    roam_val_frac: Share = 0.1
    primer_val_frac: Share = 0.1
    folders: dict[str, NonEmptyPath] = Field(default_factory=dict, description="the path of a folder")

    @property
    def enabled(self) -> tuple[str, ...]:
        """The sources to look for: those that are named, else the usual ones and all folders."""
        return (*DEFAULT_SOURCES, *self.folders) if self.enabled_sources is None else self.enabled_sources

    @property
    def required(self) -> tuple[str, ...]:
        """The sources without which the run does not start."""
        if self.required_sources is not None:
            return self.required_sources
        return (REQUIRED,) if REQUIRED in self.enabled else ()


class OptimizerConfig(Section):
    """What changes the weights (see `niels_gpt.train.optimizer`)."""

    kind: Literal["adamw", "muon"] = Field(default="adamw", description="one of adamw, muon")


class ComputeConfig(Section):
    """How to compute. Nothing here changes what is learned, except for rounding."""

    amp: Literal["auto", "bf16"] | None = Field(default="auto", description='"auto", "bf16" or null')
    """"bf16" runs matrix products in bfloat16 and keeps weights in float32; "auto" where the device gains."""
    threads: Count | None = Field(default=None, description="a whole number of at least 1")
    compile: Flag = False
    """Whether torch compiles the blocks."""
    graphs: Flag = False
    """Whether a GPU runs a step's forward and backward pass as one CUDA graph; other devices do not."""
    accumulation_steps: Count = 1
    """Number of parts that a batch is computed in, one after the other, to save memory."""
    activation_checkpointing: Flag = False
    """Whether the backward pass computes blocks again, to save memory."""
    parallel: Literal["ddp", "fsdp2"] = Field(default="ddp", description="one of ddp, fsdp2")
    """How several processes share the work: each holds the model ("ddp") or a part of it ("fsdp2")."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A whole configuration file."""

    model: ModelConfig
    train: TrainConfig
    optimizer: OptimizerConfig
    data: DialogueConfig | StreamConfig
    compute: ComputeConfig


def load_run_config(path: Path) -> RunConfig:
    """Read and check a configuration file.

    Raises:
        TrainingError: A key of `optimizer`, `data` or `compute` is unknown or has a wrong value.
        ConfigError: The file cannot be read, or `model` or `train` is wrong.

    """
    raw = load_json(path)
    unknown = [repr(key) for key in raw if key not in SECTIONS]
    if unknown:
        raise TrainingError(_unknown_keys(unknown, SECTIONS, where=f"{path}"))
    return RunConfig(
        model=config_from_dict(ModelConfig, raw.get("model", {}), where=f"{path}, section 'model'"),
        train=config_from_dict(TrainConfig, raw.get("train", {}), where=f"{path}, section 'train'"),
        optimizer=OptimizerConfig.parse(raw.get("optimizer", {}), where=f"{path}, section 'optimizer'"),
        data=_data(raw.get("data", {}), where=f"{path}, section 'data'"),
        compute=ComputeConfig.parse(raw.get("compute", {}), where=f"{path}, section 'compute'"),
    )


def _data(values: object, *, where: str) -> DialogueConfig | StreamConfig:
    if not isinstance(values, Mapping):
        return StreamConfig.parse(values, where=where)
    if "dialogues" in values:
        return DialogueConfig.parse(values, where=where)
    if any(key in DialogueConfig.model_fields for key in values):
        expected = _expected(DialogueConfig, "dialogues")
        raise TrainingError(f"{where}: dialogues is None, expected {expected}")
    unknown = [repr(key) for key in values if key not in StreamConfig.model_fields]
    if unknown:
        raise TrainingError(_unknown_keys(unknown, ("dialogues", *StreamConfig.model_fields), where=where))
    return StreamConfig.parse(values, where=where)


def _message(kind: type[Section], values: Mapping[str, Any], error: ValidationError, *, where: str) -> str:
    """Return one line for the first fault: its section, the key, the value and what was expected."""
    faults = error.errors(include_url=False)
    unknown = [fault["loc"] for fault in faults if fault["type"] == "extra_forbidden"]
    places = unknown or [faults[0]["loc"]]
    section: type[Section] | None = kind
    held: Any = values
    expected = ""
    for depth, key in enumerate(places[0]):
        inner = _inner_section(section, key)
        if section is not None and key in section.model_fields:
            expected = _expected(section, str(key))
        last = depth == len(places[0]) - 1 or not isinstance(held[key], Mapping)
        if last and unknown and section is not None:
            names = [repr(place[-1]) for place in places if place[:-1] == places[0][:-1]]
            return _unknown_keys(names, tuple(section.model_fields), where=where)
        if last and inner is None and faults[0]["type"] != "dict_type":
            return f"{where}: {key} is {held.get(key)!r}, expected {expected}"
        if last:
            return f"{where}, section {key!r}: expected an object with keys, got {held[key]!r}"
        where, section, held = f"{where}, section {key!r}", inner, held[key]
    return f"{where}: {faults[0]['msg']}"


def _inner_section(section: type[Section] | None, key: object) -> type[Section] | None:
    field = None if section is None else section.model_fields.get(str(key))
    kind = None if field is None else field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def _expected(section: type[Section], key: str) -> str:
    return section.model_fields[key].description or "an object with keys"


def _unknown_keys(unknown: list[str], valid: tuple[str, ...], *, where: str) -> str:
    return f"{where}: unknown keys {', '.join(unknown)}; valid keys are {', '.join(valid)}"
