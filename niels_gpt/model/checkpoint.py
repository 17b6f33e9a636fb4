"""Checkpoint files: one dictionary, written so that a crash leaves the old file or the new one, never half.

The keys are model_cfg, train_cfg, model_state, optimizer_state, step, best_val_loss and, where the model
has a tokenizer of its own, its JSON under "tokenizer", and where a run can go on from it, the counter of
its randomness and the position in its data under "run". Files are always read with `weights_only=True`,
which can build tensors and plain values and nothing else.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from niels_gpt.atomic_io import atomic_write
from niels_gpt.model.config import ModelConfig, TrainConfig, to_dict
from niels_gpt.model.stored import CheckpointError

KEYS = ("model_cfg", "train_cfg", "model_state", "optimizer_state", "step", "best_val_loss")
OPTIONAL_KEYS = ("tokenizer", "run")
SHAPE_FIELDS = ("V", "T", "C", "L", "H", "d_ff", "dropout", "rope_theta")


class HasState(Protocol):
    """A model or an optimizer."""

    def state_dict(self) -> dict[str, Any]:
        """Return its tensors and plain values by name."""
        ...


class HasJson(Protocol):
    """A tokenizer that can be stored in a checkpoint as JSON."""

    def to_json(self) -> str | None:
        """Return the JSON, or None for a tokenizer that has nothing to carry."""
        ...


def save_checkpoint(
    path: str | Path,
    *,
    model_cfg: ModelConfig | Mapping[str, Any],
    train_cfg: TrainConfig | Mapping[str, Any],
    model: HasState,
    optimizer: HasState | None,
    step: int,
    best_val_loss: float | None,
    tokenizer: HasJson | None = None,
    run: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint to `path`, atomically and durably; OSError if it cannot be written."""
    content: dict[str, Any] = {
        "model_cfg": _plain(model_cfg),
        "train_cfg": _plain(train_cfg),
        "model_state": model.state_dict(),
        "optimizer_state": None if optimizer is None else optimizer.state_dict(),
        "step": step,
        "best_val_loss": best_val_loss,
    }
    tokenizer_json = None if tokenizer is None else tokenizer.to_json()
    if tokenizer_json is not None:
        content["tokenizer"] = tokenizer_json
    if run is not None:
        content["run"] = dict(run)
    with atomic_write(path) as file:
        torch.save(content, file)


def load_checkpoint(path: str | Path, *, device: str | torch.device) -> dict[str, Any]:
    """Read a checkpoint, its tensors on `device`: `KEYS`, and those of `OPTIONAL_KEYS` that it has.

    Raises CheckpointError (a ValueError) for a file that is missing, foreign, damaged or incomplete.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise CheckpointError(
            f"the checkpoint {str(path)!r} {what}; give the path of a .pt file that training wrote"
        )
    try:
        _check_parts(path)
        content = torch.load(path, map_location=device, weights_only=True)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:  # torch's own words advise to load it unsafely: not passed on
        msg = f"{str(path)!r} holds something other than tensors and plain values, and is not loaded"
        raise CheckpointError(f"{msg}; save it again as a niels-gpt checkpoint") from error
    except Exception as error:  # a foreign file can raise nearly anything
        raise _unreadable(path, f"reading it failed with {type(error).__name__}") from error
    return _checked(path, content)


def validate_model_config_match(
    loaded: ModelConfig | Mapping[str, Any], current: ModelConfig | Mapping[str, Any]
) -> None:
    """Raise ValueError that lists each field that differs and decides the shape or the meaning of weights."""
    old, new = _plain(loaded), _plain(current)
    lines = [
        f"{name}: checkpoint {old.get(name)!r}, config {new.get(name)!r}"
        for name in SHAPE_FIELDS
        if old.get(name) != new.get(name)
    ]
    if lines:
        raise CheckpointError(f"the checkpoint was made with another model config: {'; '.join(lines)}")


def _check_parts(path: Path) -> None:
    """Compare the parts with their stored sums. torch.load does not: it would take a flipped bit."""
    if not zipfile.is_zipfile(path):
        raise _unreadable(path, "it is not an archive of tensors")
    with zipfile.ZipFile(path) as parts:
        broken = parts.testzip()
    if broken is not None:
        raise _unreadable(path, f"its part {broken!r} is not what was written")


def _unreadable(path: Path, reason: str) -> CheckpointError:
    msg = f"{str(path)!r} is not a checkpoint, or is damaged: {reason}"
    return CheckpointError(f"{msg}; copy it again, or train a new one")


def _plain(cfg: object) -> dict[str, Any]:
    if isinstance(cfg, (ModelConfig, TrainConfig)):
        return to_dict(cfg)
    if isinstance(cfg, Mapping):
        return dict(cfg)
    raise ValueError(f"expected a config or a mapping of its fields, got {cfg!r}")


def _checked(path: Path, content: object) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{str(path)!r} holds a {type(content).__name__}, expected a dictionary with {KEYS}"
        )
    # The original project leaves out what it has not.
    content = {"optimizer_state": None, "best_val_loss": None, **content}
    missing = [key for key in KEYS if key not in content]
    if missing:
        raise CheckpointError(f"{str(path)!r} is not a niels-gpt checkpoint: it lacks {', '.join(missing)}")
    for key in ("model_cfg", "train_cfg", "model_state"):
        if not isinstance(content[key], Mapping):
            raise CheckpointError(
                f"{str(path)!r}: {key} is a {type(content[key]).__name__}, expected a dictionary"
            )
    step = content["step"]
    if isinstance(step, bool) or not isinstance(step, int):
        raise CheckpointError(f"{str(path)!r}: step is {step!r}, expected a whole number")
    tokenizer = content.get("tokenizer")
    if tokenizer is not None and not isinstance(tokenizer, str):
        raise CheckpointError(f"{str(path)!r}: tokenizer is a {type(tokenizer).__name__}, expected JSON text")
    run = content.get("run")
    if run is not None and not isinstance(run, Mapping):
        raise CheckpointError(f"{str(path)!r}: run is a {type(run).__name__}, expected a dictionary")
    return {
        key: content[key] for key in (*KEYS, *OPTIONAL_KEYS) if key in KEYS or content.get(key) is not None
    }
