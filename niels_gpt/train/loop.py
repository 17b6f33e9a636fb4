"""The training loop: one step after the other, evaluation and checkpoints at their times, a clean stop.

Randomness belongs to the step: (seed, step) decides dropout and batch alike, so a run that was stopped and
resumed computes what it would have computed anyway. Knows nothing about the command line, files of text,
terminals or signals: it tells an observer and asks whether to stop.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from niels_gpt.checkpoint import save_checkpoint
from niels_gpt.config import ModelConfig, TrainConfig
from niels_gpt.lr_schedule import lr_at_step
from niels_gpt.model.gpt import GPT
from niels_gpt.rng import set_seed
from niels_gpt.tokenizer import Tokenizer
from niels_gpt.train.batches import Batch, BatchOrder
from niels_gpt.train.errors import TrainingError
from niels_gpt.train.objective import batch_loss, evaluating, mean_loss

BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.1
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
    """One evaluation on the held-out dialogues, and a greedy reply to watch the model learn."""

    step: int
    val_loss: float
    is_best: bool
    sample: str


class Observer(Protocol):
    """Whoever watches a run; called on the training thread, and must return soon."""

    def stepped(self, report: StepReport) -> None:
        """Take note of a step; called after every one."""
        ...

    def evaluated(self, report: EvalReport) -> None:
        """Take note of an evaluation."""
        ...


@dataclass(frozen=True, kw_only=True)
class Run:
    """All that a run needs, at the point where it starts or goes on."""

    model: GPT
    optimizer: torch.optim.Optimizer
    tokenizer: Tokenizer
    model_cfg: ModelConfig
    train_cfg: TrainConfig
    order: BatchOrder
    val: Sequence[Batch]
    """Held-out batches; empty: nothing is evaluated and the best checkpoint is never written."""
    out: Path
    device: str = "cpu"
    amp: bool = False
    prompt_weight: float = 0.0
    sample: Callable[[GPT], str] | None = None
    start_step: int = 0
    best_val_loss: float = math.inf


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Where a run ended: steps done in all, the best held-out loss, whether it was stopped early."""

    step: int
    best_val_loss: float
    stopped: bool


def make_optimizer(model: nn.Module, *, device: str) -> torch.optim.AdamW:
    """Return AdamW in which matrices, the embedding among them, decay; norms and biases do not.

    The fused form does all parameters in one call: on a CPU it saves a tenth of a small model's step.
    """
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=BETAS, fused=device in ("cpu", "cuda"))


def train(run: Run, observer: Observer, *, should_stop: Callable[[], bool] = lambda: False) -> Outcome:
    """Train to the last step, or until `should_stop` says so between two steps; then write `latest.pt`.

    Raises TrainingError when the loss is no number any more; the checkpoints written before stay as they are.
    """
    run.out.mkdir(parents=True, exist_ok=True)
    run.model.train()
    cfg, step, pace = run.train_cfg, run.start_step, _Pace()
    batches = run.order.from_step(step)
    while step < cfg.total_steps and not should_stop():
        started = time.perf_counter()
        batch = next(batches).to(run.device)
        lr = _learning_rate(cfg, step)
        loss = _update(run, batch, step=step, lr=lr)
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
        if run.val and (step % cfg.eval_every == 0 or at_end):
            run = _evaluate(run, observer, step=step)
        if step % cfg.ckpt_every == 0 or at_end:
            _save(run, f"step_{step:06d}.pt", step=step)
            _save(run, "latest.pt", step=step)
    stopped = step < cfg.total_steps
    if stopped:
        _save(run, "latest.pt", step=step)
    return Outcome(step=step, best_val_loss=run.best_val_loss, stopped=stopped)


def _learning_rate(cfg: TrainConfig, step: int) -> float:
    # The schedule starts at 0, and an update with 0 would change nothing: the first takes the rate of step 1.
    return lr_at_step(
        step + 1, cfg.total_steps, base_lr=cfg.base_lr, warmup_steps=cfg.warmup_steps, min_lr=cfg.min_lr
    )


def _update(run: Run, batch: Batch, *, step: int, lr: float) -> float:
    set_seed((run.train_cfg.seed * 2**32 + step) % 2**63)
    for group in run.optimizer.param_groups:
        group["lr"] = lr
    run.optimizer.zero_grad(set_to_none=True)
    loss = batch_loss(run.model, batch, amp=run.amp, prompt_weight=run.prompt_weight)
    value = loss.item()
    if not math.isfinite(value):
        raise TrainingError(
            f"the loss is {value!r} at step {step + 1}: training has diverged; lower train.base_lr (now "
            f"{run.train_cfg.base_lr!r}) or raise train.warmup_steps, and resume from an earlier checkpoint"
        )
    loss.backward()
    nn.utils.clip_grad_norm_(run.model.parameters(), run.train_cfg.grad_clip)
    run.optimizer.step()
    return value


def _evaluate(run: Run, observer: Observer, *, step: int) -> Run:
    """Evaluate, tell the observer, keep the best; the run comes back with the best loss so far."""
    val_loss = mean_loss(run.model, run.val, device=run.device)
    is_best = val_loss < run.best_val_loss
    if is_best:
        run = replace(run, best_val_loss=val_loss)
        _save(run, "best.pt", step=step)
    with evaluating(run.model):
        sample = run.sample(run.model) if run.sample is not None else ""
    observer.evaluated(EvalReport(step=step, val_loss=val_loss, is_best=is_best, sample=sample))
    return run


def _save(run: Run, name: str, *, step: int) -> None:
    save_checkpoint(
        run.out / name,
        model_cfg=run.model_cfg,
        train_cfg=run.train_cfg,
        model=run.model,
        optimizer=run.optimizer,
        step=step,
        best_val_loss=run.best_val_loss if math.isfinite(run.best_val_loss) else None,
        tokenizer=run.tokenizer,
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
