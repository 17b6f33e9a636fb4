"""The sizes of a model and the settings of a training run, as frozen values that check themselves.

Also their JSON form, `{"model": {...}, "train": {...}}`, in which every key is optional and an unknown one
is an error that names it.

V vocabulary, T context window, C width, L layers, H heads, d_ff width of the MLP, D = C // H width of a
head, B batch size. In a BDH, d_ff is the width of the sparse latents of all heads together, and T the
length of the texts that it learns from: it has no window.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from niels_gpt.atomic_io import write_text
from niels_gpt.errors import NielsGptError
from niels_gpt.text.files import UnreadableTextError, read_text

if TYPE_CHECKING:
    from collections.abc import Mapping

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "gpt": {},
    "bdh": {"T": 512, "L": 6, "d_ff": 128 * 256, "rope_theta": 2.0**16, "tie_embeddings": False},
}
"""By name, the defaults that differ from `ModelConfig`'s where a JSON file leaves a field out."""
NO_LIMIT = 2**29
"""Tokens that an architecture without a window takes: as far as its phases are exact."""
LONGEST_WINDOW = 2**24
"""Positions that tables of angles are made for at most."""
NORM_EPS = 1e-5
"""What the norms of a `gpt` add to a variance."""
NORMS = ("layernorm", "rmsnorm")
MLPS = ("gelu", "swiglu")


class ConfigError(NielsGptError):
    """An unusable configuration: a field out of range, an unknown key, a file that is not JSON."""


@dataclass(frozen=True)
class ModelConfig:
    """The sizes and choices of a model. Older files have the first eight fields only."""

    V: int = 256
    T: int = 256
    C: int = 256
    L: int = 4
    H: int = 4
    d_ff: int = 1024
    dropout: float = 0.1
    rope_theta: float = 10000.0
    norm: str = "layernorm"
    mlp: str = "gelu"
    tie_embeddings: bool = True
    mlp_bias: bool | None = None
    """Biases in the MLP; None lets the form of the MLP decide (see `mlp_has_bias`)."""
    arch: str = "gpt"

    def __post_init__(self) -> None:
        _check_types(self)
        _require(self, "arch", self.arch in ARCHITECTURES, f"one of {', '.join(ARCHITECTURES)}")
        for name in ("V", "T", "C", "L", "H", "d_ff"):
            _require(self, name, getattr(self, name) >= 1, "at least 1")
        _require(self, "T", self.T <= LONGEST_WINDOW, f"at most {LONGEST_WINDOW}")
        split = "C" if self.arch == "gpt" else "d_ff"
        width = getattr(self, split)
        _require(self, "H", width % self.H == 0, f"a divisor of {split}={width}")
        _require(
            self,
            split,
            width // self.H % 2 == 0,
            f"an even width for each of the H={self.H} heads (RoPE turns pairs)",
        )
        _require(self, "dropout", 0.0 <= self.dropout < 1.0, "in [0, 1)")
        _require(self, "rope_theta", self.rope_theta > 0.0, "positive")
        _require(self, "norm", self.norm in NORMS, f"one of {', '.join(NORMS)}")
        _require(self, "mlp", self.mlp in MLPS, f"one of {', '.join(MLPS)}")

    @property
    def D(self) -> int:  # noqa: N802 - D is the width of a head everywhere
        """Width of one head."""
        return self.C // self.H

    @property
    def context(self) -> int:
        """Most tokens of a sequence: the window, or `NO_LIMIT` where the architecture has none."""
        return self.T if self.arch == "gpt" else NO_LIMIT

    @property
    def mlp_has_bias(self) -> bool:
        """Whether the MLP's layers have biases; unless said, the GELU form does and SwiGLU does not."""
        return self.mlp == "gelu" if self.mlp_bias is None else self.mlp_bias


@dataclass(frozen=True)
class TrainConfig:
    """How a training run goes; counts are in optimizer steps."""

    seed: int = 42
    B: int = 32
    total_steps: int = 20000
    eval_every: int = 200
    eval_steps: int = 100
    log_every: int = 50
    ckpt_every: int = 1000
    base_lr: float = 3e-4
    warmup_steps: int = 200
    min_lr: float = 3e-5
    grad_clip: float = 1.0
    p_train: dict[str, float] | None = None
    """Probability of each source; None where the caller has one source or chooses later."""
    total_steps_smoke: int = 1000

    def __post_init__(self) -> None:
        _check_types(self)
        for name in ("B", "total_steps", "eval_every", "eval_steps", "log_every", "ckpt_every"):
            _require(self, name, getattr(self, name) >= 1, "at least 1")
        _require(self, "total_steps_smoke", self.total_steps_smoke >= 1, "at least 1")
        _require(self, "warmup_steps", self.warmup_steps >= 0, "0 or more")
        _require(self, "base_lr", self.base_lr > 0.0, "positive")
        _require(self, "min_lr", self.min_lr >= 0.0, "0 or more")
        _require(self, "grad_clip", self.grad_clip > 0.0, "positive")
        if self.p_train is not None:
            _require(
                self, "p_train", min(self.p_train.values(), default=-1.0) >= 0.0, "probabilities by source"
            )


Config = TypeVar("Config", ModelConfig, TrainConfig)
SECTIONS = ("model", "train", "optimizer", "data", "compute")
"""The sections of a run's configuration file (see `niels_gpt.train.config`)."""


def default_p_train() -> dict[str, float]:
    """Return the source mix of the byte-level run, a fresh dictionary each time."""
    return {"wiki": 0.784, "roam": 0.196, "primer": 0.020}


def to_dict(cfg: ModelConfig | TrainConfig) -> dict[str, Any]:
    """Return all fields of `cfg` as plain values that JSON and `weights_only` files can hold."""
    return dataclasses.asdict(cfg)


def load_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object from a file; ConfigError if it is missing, not JSON, or not an object."""
    try:
        value = json.loads(read_text(Path(path), "the JSON file"))
    except UnreadableTextError as error:
        raise ConfigError(str(error)) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{str(path)!r} is not JSON ({error}); expected an object with keys") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{str(path)!r} holds a JSON {type(value).__name__}, expected an object with keys")
    return value


def save_json(path: str | Path, value: Mapping[str, Any]) -> None:
    """Write `value` to a file as indented JSON with a final newline; OSError if it cannot be written."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def load_config_from_json(path: str | Path) -> tuple[ModelConfig, TrainConfig]:
    """Read the sections "model" and "train" of a run's JSON file; the others are ignored.

    Missing keys keep their defaults, `p_train` included.

    Raises ConfigError (a ValueError) that names unknown keys and wrong values, and lists the valid keys.
    """
    raw = load_json(path)
    _reject_unknown(str(path), raw, list(SECTIONS))
    model_cfg = config_from_dict(ModelConfig, raw.get("model", {}), where=f"{path}, section 'model'")
    train_cfg = config_from_dict(TrainConfig, raw.get("train", {}), where=f"{path}, section 'train'")
    if train_cfg.p_train is None:
        train_cfg = dataclasses.replace(train_cfg, p_train=default_p_train())
    return model_cfg, train_cfg


def config_from_dict(kind: type[Config], values: object, *, where: str) -> Config:
    """Build a config from a mapping of its fields; `where` names the mapping's origin in errors."""
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: expected an object with keys, got {values!r}")
    _reject_unknown(where, values, [field.name for field in fields(kind)])
    arch = str(values.get("arch", "gpt"))
    defaults = ARCHITECTURES.get(arch, {}) if kind is ModelConfig else {}
    try:
        return kind(**{**defaults, **values})
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _reject_unknown(where: str, values: Mapping[str, Any], valid: list[str]) -> None:
    unknown = [str(key) for key in values if key not in valid]
    if unknown:
        names = ", ".join(repr(key) for key in unknown)
        raise ConfigError(f"{where}: unknown keys {names}; valid keys are {', '.join(valid)}")


def _require(cfg: object, name: str, holds: bool, expected: str) -> None:  # noqa: FBT001 - the tested condition
    if not holds:
        raise ConfigError(f"{type(cfg).__name__}.{name} is {getattr(cfg, name)!r}, expected {expected}")


def _check_types(cfg: ModelConfig | TrainConfig) -> None:
    """Refuse values of a type that differs from the field's; a float field takes whole numbers too."""
    for field in fields(cfg):
        value = getattr(cfg, field.name)
        match str(field.type):
            case "int":
                _require(cfg, field.name, _is_int(value), "a whole number")
            case "float":
                _require(cfg, field.name, _is_number(value), "a finite number")
                object.__setattr__(cfg, field.name, float(value))
            case "str":
                _require(cfg, field.name, isinstance(value, str), "a string")
            case "bool":
                _require(cfg, field.name, isinstance(value, bool), "true or false")
            case "bool | None":
                _require(cfg, field.name, value is None or isinstance(value, bool), "true, false or null")
            case _:
                _require(cfg, field.name, value is None or _is_mix(value), "numbers by source, or null")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_mix(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(k, str) and _is_number(v) for k, v in value.items())
