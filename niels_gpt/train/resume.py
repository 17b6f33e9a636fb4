"""Resume a run from a checkpoint: read it, compare it with the configuration, load its state.

A damaged file is refused by name, and the newest complete checkpoint next to it is offered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from niels_gpt.model.checkpoint import CheckpointError, load_checkpoint, validate_model_config_match
from niels_gpt.model.config import ModelConfig, TrainConfig, to_dict
from niels_gpt.model.registry import Model
from niels_gpt.train.distributed import load_optimizer
from niels_gpt.train.errors import TrainingError
from niels_gpt.train.loop import Start
from niels_gpt.train.rng import RNG_VERSION

Content = dict[str, Any]


_MEANING = "arch", "norm", "mlp", "tie_embeddings", "mlp_bias"
"""Fields that decide what weights mean, besides those of `validate_model_config_match`."""


def read_checkpoint(path: Path) -> Content:
    """Return the content of a checkpoint; the error for a damaged one names the newest complete one."""
    try:
        return load_checkpoint(path, device="cpu")
    except CheckpointError as error:
        other = newest_whole(path.parent, without=path)
        if other is None:
            raise
        before, step = other
        raise CheckpointError(f"{error}; or continue after step {step} with --resume {before}") from error


def newest_whole(folder: Path, *, without: Path) -> tuple[Path, int] | None:
    """Return the checkpoint with the most steps in a folder that can be resumed, and its number of steps."""
    found: list[tuple[int, str, Path]] = []
    for path in folder.glob("*.pt"):
        if path.resolve() == without.resolve():
            continue
        try:
            content = load_checkpoint(path, device="cpu")
        except (CheckpointError, OSError):
            continue
        if content["optimizer_state"] is not None:  # released weights are a poor start
            found.append((content["step"], path.name, path))
    return (max(found)[2], max(found)[0]) if found else None


def check_fit(
    content: Content, model_cfg: ModelConfig, train_cfg: TrainConfig, optimizer: str, *, path: Path
) -> None:
    """Raise a ValueError for a checkpoint of a different model, run or kind of optimizer."""
    validate_model_config_match(content["model_cfg"], model_cfg)
    recorded = content["model_cfg"]
    for name in _MEANING:
        if name in recorded and recorded[name] != getattr(model_cfg, name):
            raise TrainingError(
                f"{str(path)!r} is of a model with {name} {recorded[name]!r}, the configuration says "
                f"{getattr(model_cfg, name)!r}"
            )
    seed = content["train_cfg"].get("seed", train_cfg.seed)
    if seed != train_cfg.seed:
        raise TrainingError(
            f"{str(path)!r} was trained with seed {seed!r}, the configuration says {train_cfg.seed!r}: "
            "a different seed holds out different texts; set train.seed to the checkpoint's"
        )
    stored = (content.get("run") or {}).get("optimizer", "adamw")
    if content["optimizer_state"] is not None and stored != optimizer:
        raise TrainingError(
            f"{str(path)!r} was trained with the optimizer {stored!r}, the configuration says {optimizer!r}; "
            "set optimizer.kind to the checkpoint's"
        )


def put_weights(content: Content, model: Model, *, path: Path) -> None:
    """Load the weights; TrainingError where they do not fit."""
    try:
        model.load_state_dict(content["model_state"])
    except RuntimeError as error:
        raise TrainingError(f"{str(path)!r} does not fit the configured model: {_one_line(error)}") from error


def put_optimizer(
    content: Content, optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor], *, path: Path
) -> None:
    """Load the optimizer's state, if there is one; TrainingError where it does not fit.

    A state with all `parameters` in one group, as the original project wrote it, is split into our groups.
    """
    state = content["optimizer_state"]
    if state is None:
        return
    try:
        load_optimizer(optimizer, _in_groups(state, optimizer, parameters))
    except (RuntimeError, ValueError, KeyError) as error:
        raise TrainingError(f"{str(path)!r} has a different optimizer: {_one_line(error)}") from error


def _in_groups(
    state: Mapping[str, Any], optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]
) -> Mapping[str, Any]:
    if len(state["param_groups"]) != 1:
        return state
    order = {id(parameter): index for index, parameter in enumerate(parameters)}
    grouped = [order[id(p)] for group in optimizer.param_groups for p in group["params"]]
    held = state["state"]
    return {
        "state": {new: held[old] for new, old in enumerate(grouped) if old in held},
        "param_groups": optimizer.state_dict()["param_groups"],
    }


def start_of(content: Content) -> Start:
    """Return where the run resumes. In old files the number of steps decides everything."""
    step, best = content["step"], content["best_val_loss"]
    run = content.get("run") or {}
    return Start(
        step=step,
        rng=run.get("rng", {}).get("counter", step),
        position=run.get("data", {}).get("position", step),
        best_val_loss=math.inf if best is None else float(best),
    )


def differences(
    content: Content, *, cfg: TrainConfig, digest: str, environment: Mapping[str, Any]
) -> list[str]:
    """Return the reasons, a line each, why the resumed run differs from one that was never stopped."""
    lines = _changed_settings(content["train_cfg"], cfg)
    if content["optimizer_state"] is None:
        lines.append("the checkpoint has no optimizer state: the optimizer starts with a new one")
    run = content.get("run")
    if not run:
        return lines
    if run.get("rng", {}).get("version", 1) != RNG_VERSION and content["model_cfg"].get("dropout", 0.0):
        lines.append("the seeds of dropout changed since this checkpoint was written: its masks will differ")
    if run.get("data", {}).get("digest") not in (None, digest):
        lines.append(
            "the data differ from those that the checkpoint was trained on: the run continues on the new ones"
        )
    old = run.get("environment", run.get("circumstances", {}))  # the name in files of version 0.1
    changed = [f"{k} {old[k]!r} then, {v!r} now" for k, v in environment.items() if k in old and old[k] != v]
    if changed:
        lines.append(f"rounding may differ from before: {', '.join(changed)}")
    return lines


def _changed_settings(old: Mapping[str, Any], cfg: TrainConfig) -> list[str]:
    new = to_dict(cfg)
    names = ("B", "total_steps", "base_lr", "warmup_steps", "min_lr", "grad_clip", "p_train")
    changed = [f"{n} {old[n]!r} then, {new[n]!r} now" for n in names if n in old and old[n] != new[n]]
    lines = [f"settings of train differ from the checkpoint's: {', '.join(changed)}"] if changed else []
    if old.get("B", cfg.B) != cfg.B:
        lines.append(
            "the position in the data counts batches, and train.B differs: in this epoch some texts are "
            "skipped or learned twice"
        )
    return lines


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
