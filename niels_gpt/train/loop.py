"""Run the training loop: steps, evaluations, checkpoints, a clean stop.

Randomness is a counter and the data have a position. A checkpoint holds both, so a resumed run computes what
an undisturbed one computes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from niels_gpt.atomic_io import remove_stale
from niels_gpt.model.checkpoint import save_checkpoint
from niels_gpt.model.config import ModelConfig, TrainConfig
from niels_gpt.model.mode import eval_mode
from niels_gpt.model.registry import Model
from niels_gpt.rng import set_seed
from niels_gpt.text.tokenizer import Tokenizer
from niels_gpt.train.batch import Batch, TrainingData
from niels_gpt.train.distributed import DistributedContext
from niels_gpt.train.errors import TrainingError
from niels_gpt.train.graphs import GraphedBackward
from niels_gpt.train.loss import batch_loss
from niels_gpt.train.optimizer import clip_gradients, lr_at_step
from niels_gpt.train.rng import RNG_VERSION, dropout_seed

PACE_MEMORY = 0.95  # share of the running tokens/s that survives one step: about the last 20 steps count


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """One optimizer step: steps done, mean loss of its batch in nats per learned token, pace."""

    step: int
    total_steps: int
    loss: float
    lr: float
    tokens_per_second: float
    seconds_left: float


@dataclass(frozen=True, kw_only=True)
class EvalReport:
    """One evaluation on the held-out data, with a greedy reply as a sample."""

    step: int
    val_loss: float
    """The loss of the first source, which decides which model is the best."""
    losses: dict[str, float] = field(default_factory=dict)
    """The loss of every source."""
    is_best: bool
    sample: str


class Observer(Protocol):
    """Receives the reports of a run on the training thread, and must return soon."""

    def stepped(self, report: StepReport) -> None:
        """Handle the report of one step; called after every step."""
        ...

    def evaluated(self, report: EvalReport) -> None:
        """Handle the report of one evaluation."""
        ...


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a run starts: steps done, the counter of its randomness, the position in its data."""

    step: int = 0
    rng: int = 0
    position: int = 0
    best_val_loss: float = math.inf


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything a run needs, ready to start or to resume."""

    model: Model
    forward: nn.Module
    """What a step calls: the model, wrapped (see `DistributedContext.wrapped`)."""
    optimizer: torch.optim.Optimizer
    optimizer_kind: str = "adamw"
    tokenizer: Tokenizer
    model_cfg: ModelConfig
    train_cfg: TrainConfig
    data: TrainingData
    out: Path
    device: str = "cpu"
    accumulation_steps: int = 1
    prompt_weight: float = 0.0
    graphed: GraphedBackward | None = None
    """Computes the gradients of a step in the place of `forward`, where a GPU runs graphs."""
    sample: Callable[[Model], str] | None = None
    start: Start = Start()
    world: DistributedContext = field(default_factory=DistributedContext)
    environment: dict[str, Any] = field(default_factory=dict)
    """Facts that explain differences in rounding (threads, processes, ...), kept in checkpoints."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Where a run ended: steps done in all, the best held-out loss, whether it was stopped early."""

    step: int
    best_val_loss: float
    stopped: bool


def train(run: Run, observer: Observer, *, should_stop: Callable[[], bool] = lambda: False) -> Outcome:
    """Train to the last step, or until `should_stop` returns True between two steps; then write `latest.pt`.

    Raises:
        TrainingError: The loss or the gradients are not finite, or the device has too little memory.
            Checkpoints written before stay as they are.

    """
    run.out.mkdir(parents=True, exist_ok=True)
    if run.world.is_main:
        remove_stale(run.out)
    run.forward.train()
    cfg, step, best, pace = run.train_cfg, run.start.step, run.start.best_val_loss, _Pace()
    batches = run.data.from_position(run.start.position)
    while step < cfg.total_steps and not run.world.any(should_stop()):
        started = time.perf_counter()
        batch = next(batches)
        lr = _learning_rate(cfg, step)
        try:
            loss = update(run, batch, step=step, lr=lr)
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"{run.device} has too little memory for a step: raise compute.accumulation_steps, set "
                "compute.activation_checkpointing, or lower train.B or model.T"
            ) from error
        step += 1
        pace.add(batch.tokens, time.perf_counter() - started)
        observer.stepped(
            StepReport(
                step=step,
                total_steps=cfg.total_steps,
                loss=loss,
                lr=lr,
                tokens_per_second=pace.tokens_per_second,
                seconds_left=pace.seconds_for(cfg.total_steps - step),
            )
        )
        at_end = step == cfg.total_steps
        if step % cfg.eval_every == 0 or at_end:
            best = _evaluate(run, observer, step=step, best=best)
        if step % cfg.ckpt_every == 0 or at_end:
            _save(run, f"step_{step:06d}.pt", "latest.pt", step=step, best=best)
    stopped = step < cfg.total_steps
    if stopped:
        _save(run, "latest.pt", step=step, best=best)
    return Outcome(step=step, best_val_loss=best, stopped=stopped)


def _learning_rate(cfg: TrainConfig, step: int) -> float:
    # The schedule starts at 0, and an update with 0 would change nothing: the first takes the rate of step 1.
    return lr_at_step(
        step + 1, cfg.total_steps, base_lr=cfg.base_lr, warmup_steps=cfg.warmup_steps, min_lr=cfg.min_lr
    )


def update(run: Run, batch: Batch, *, step: int, lr: float) -> float:
    """Take one step and return the loss of the whole batch, parts on other processes included."""
    world, cfg = run.world, run.train_cfg
    set_seed(dropout_seed(cfg.seed, _counter(run, step), rank=world.rank))
    for group in run.optimizer.param_groups:
        group["lr"] = lr
    run.optimizer.zero_grad(set_to_none=True)
    value = world.sum(_backward(run, batch)) if run.graphed is None else run.graphed(batch)
    if not math.isfinite(value):
        raise TrainingError(
            f"the loss is {value!r} at step {step + 1}: training has diverged; lower train.base_lr (now "
            f"{cfg.base_lr!r}) or raise train.warmup_steps, and resume from an earlier checkpoint"
        )
    clip_gradients(run.forward, cfg.grad_clip, step=step + 1)
    run.optimizer.step()
    return value


def _backward(run: Run, batch: Batch) -> float:
    """Add up the gradients of this process's parts of a batch, and return their share of the loss."""
    world, count, value = run.world, run.accumulation_steps, 0.0
    own = batch.parts(world.size * count)[world.rank * count : (world.rank + 1) * count]
    for number, part in enumerate(own, start=1):
        with world.gradient_sync(run.forward, last=number == count):
            loss = batch_loss(run.forward, part.to(run.device), prompt_weight=run.prompt_weight)
            # Processes average their gradients but the parts' losses add up, hence the factor.
            (loss * world.size).backward()
        value += loss.item()
    return value


def _counter(run: Run, step: int) -> int:
    return run.start.rng + step - run.start.step


def _evaluate(run: Run, observer: Observer, *, step: int, best: float) -> float:
    """Evaluate, report, save the best model; return the best loss so far."""
    losses = run.data.evaluate(run.forward, device=run.device)
    if not losses:
        return best
    val_loss = run.world.broadcast(next(iter(losses.values())))
    is_best = val_loss < best
    if is_best:
        _save(run, "best.pt", step=step, best=val_loss)
    with eval_mode(run.forward):
        sample = run.sample(run.model) if run.sample is not None and run.world.is_main else ""
    observer.evaluated(
        EvalReport(step=step, val_loss=val_loss, losses=losses, is_best=is_best, sample=sample)
    )
    return min(best, val_loss)


@dataclass(frozen=True)
class _Held:
    """A gathered state in the place of a module or an optimizer."""

    state: dict[str, Any]

    def state_dict(self) -> dict[str, Any]:
        return self.state


def _save(run: Run, *names: str, step: int, best: float) -> None:
    """Write the checkpoint under each name. All processes must call it; the main one writes."""
    model = _Held(run.world.gathered(run.model.state_dict()))
    optimizer = _Held(run.world.gathered(run.optimizer.state_dict()))
    position = run.start.position + step - run.start.step
    state = {
        "rng": {"seed": run.train_cfg.seed, "counter": _counter(run, step), "version": RNG_VERSION},
        "optimizer": run.optimizer_kind,
        "data": {"position": position, "digest": run.data.digest},
        "environment": run.environment,
    }
    for name in names if run.world.is_main else ():
        save_checkpoint(
            run.out / name,
            model_cfg=run.model_cfg,
            train_cfg=run.train_cfg,
            model=model,
            optimizer=optimizer,
            step=step,
            best_val_loss=best if math.isfinite(best) else None,
            tokenizer=run.tokenizer,
            run=state,
        )


class _Pace:
    """Running means of tokens and seconds per step; evaluation and saving do not count."""

    def __init__(self) -> None:
        self._tokens = self._seconds = self._weight = 0.0

    def add(self, tokens: int, seconds: float) -> None:
        self._tokens = PACE_MEMORY * self._tokens + tokens
        self._seconds = PACE_MEMORY * self._seconds + seconds
        self._weight = PACE_MEMORY * self._weight + 1.0

    @property
    def tokens_per_second(self) -> float:
        return self._tokens / self._seconds

    def seconds_for(self, steps: int) -> float:
        return steps * self._seconds / self._weight
