"""A checkpoint as the start of a run: read, compared with what the run is to be, and put in place.

A damaged file is refused by name, and the one before it offered.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from niels_gpt.model.checkpoint import CheckpointError, load_checkpoint, validate_model_config_match
from niels_gpt.model.config import ModelConfig, TrainConfig
from niels_gpt.model.registry import Model
from niels_gpt.train.errors import TrainingError
from niels_gpt.train.loop import Start

Content = dict[str, Any]


def read_checkpoint(path: Path) -> Content:
    """Return what a checkpoint holds; CheckpointError names the newest whole one beside a damaged one."""
    try:
        return load_checkpoint(path, device="cpu")
    except CheckpointError as error:
        other = newest_whole(path.parent, without=path)
        if other is None:
            raise
        before, step = other
        raise CheckpointError(f"{error}; or go on after step {step} with --resume {before}") from error


def newest_whole(folder: Path, *, without: Path) -> tuple[Path, int] | None:
    """Return the checkpoint of most steps in a folder that a run can go on from, and its steps."""
    found: list[tuple[int, str, Path]] = []
    for path in folder.glob("*.pt"):
        if path.resolve() == without.resolve():
            continue
        try:
            content = load_checkpoint(path, device="cpu")
        except (CheckpointError, OSError):
            continue
        if content["optimizer_state"] is not None:
            found.append((content["step"], path.name, path))
    return (max(found)[2], max(found)[0]) if found else None


def check_fit(content: Content, model_cfg: ModelConfig, train_cfg: TrainConfig, *, path: Path) -> None:
    """Raise a ValueError where the checkpoint is of another model or another run, or of none."""
    validate_model_config_match(content["model_cfg"], model_cfg)
    seed = content["train_cfg"].get("seed", train_cfg.seed)
    if seed != train_cfg.seed:
        raise TrainingError(
            f"{str(path)!r} was trained with seed {seed!r}, the configuration says {train_cfg.seed!r}: "
            "another seed holds out other texts; set train.seed to the checkpoint's"
        )
    if content["optimizer_state"] is None:
        raise TrainingError(
            f"{str(path)!r} has no optimizer: released weights cannot be resumed; use latest.pt"
        )


def put_weights(content: Content, model: Model, *, path: Path) -> None:
    """Load the weights; TrainingError where they do not fit."""
    try:
        model.load_state_dict(content["model_state"])
    except RuntimeError as error:
        raise TrainingError(f"{str(path)!r} does not fit the configured model: {_one_line(error)}") from error


def put_optimizer(content: Content, load: Callable[[Mapping[str, Any]], None], *, path: Path) -> None:
    """Hand the optimizer's state to `load`; TrainingError where it does not fit."""
    try:
        load(content["optimizer_state"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise TrainingError(f"{str(path)!r} has another optimizer: {_one_line(error)}") from error


def start_of(content: Content) -> Start:
    """Return where the run goes on. Files from before say the steps alone, which decided everything then."""
    step, best = content["step"], content["best_val_loss"]
    run = content.get("run") or {}
    return Start(
        step=step,
        rng=run.get("rng", {}).get("counter", step),
        position=run.get("data", {}).get("position", step),
        best_val_loss=math.inf if best is None else float(best),
    )


def differences(content: Content, *, digest: str, circumstances: Mapping[str, Any]) -> list[str]:
    """Return what will make the run go on otherwise than the one that was stopped, a line each."""
    run = content.get("run")
    if not run:
        return []
    lines: list[str] = []
    if run.get("data", {}).get("digest") not in (None, digest):
        lines.append(
            "the data are not those that the checkpoint was trained on: it goes on, but not as it was"
        )
    old = run.get("circumstances", {})
    changed = [
        f"{k} {old[k]!r} then, {v!r} now" for k, v in circumstances.items() if k in old and old[k] != v
    ]
    if changed:
        lines.append(f"other rounding than before is possible: {', '.join(changed)}")
    return lines


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
