"""A run put together: recipe and options become a model, data and an optimizer, new or from a checkpoint.

The one place of training that knows all its parts. Knows nothing about terminals or signals.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from niels_gpt.checkpoint import load_checkpoint, validate_model_config_match
from niels_gpt.config import ModelConfig, TrainConfig
from niels_gpt.device import get_device
from niels_gpt.infer.decoder import TorchDecoder
from niels_gpt.model.gpt import GPT
from niels_gpt.paths import CHECKPOINT_DIR
from niels_gpt.prompts import DEFAULT_SYSTEM_PROMPT
from niels_gpt.replies import greedy_replies
from niels_gpt.rng import set_seed
from niels_gpt.template import Template, template_for
from niels_gpt.tokenizer import Tokenizer, tokenizer_from_json
from niels_gpt.train.batches import Batch, BatchOrder, Example, collate, encode_dialogue, fill
from niels_gpt.train.dialogues import Dialogue, read_dialogues, split_dialogues
from niels_gpt.train.errors import TrainingError
from niels_gpt.train.loop import Run, make_optimizer
from niels_gpt.train.options import Options
from niels_gpt.train.recipe import Recipe, TokenizerPlan, load_recipe

SAMPLE_QUESTION = "what is niels-gpt?"


def assemble(options: Options, *, note: Callable[[str], None]) -> Run:
    """Return the run that the options ask for; what a person should know on the way goes to `note`.

    Raises ValueErrors (TrainingError, ConfigError, CheckpointError, TokenizerError) with one-line messages.
    """
    recipe = _overridden(load_recipe(options.config), options)
    device = _device(options.device)
    if recipe.compute.threads is not None:
        torch.set_num_threads(recipe.compute.threads)
    resumed = None if options.resume is None else load_checkpoint(options.resume, device="cpu")
    cfg = recipe.train
    dialogues = read_dialogues(recipe.data.dialogues)
    train_set, val_set = split_dialogues(dialogues, val_frac=recipe.data.val_frac, seed=cfg.seed)
    tokenizer = _tokenizer(recipe.data.tokenizer, train_set, resumed)
    template = template_for(tokenizer)
    model_cfg = _fitted(recipe.model, tokenizer, note=note)
    train_examples = _encode(train_set, template, T=model_cfg.T, note=note)
    val_examples = _encode(val_set, template, T=model_cfg.T, note=note)
    places = cfg.B * model_cfg.T
    set_seed(cfg.seed)
    model = GPT(model_cfg).to(device)
    optimizer = make_optimizer(model, device=device)
    start_step, best = 0, math.inf
    if resumed is not None:
        start_step, best = _restore(resumed, model_cfg, cfg, model, optimizer, path=str(options.resume))
    note(
        f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(train_set)} dialogues to learn, "
        f"{len(val_set)} held out, {tokenizer.vocab_size} token ids, on {device}"
        + (f", going on after step {start_step}" if resumed is not None else "")
    )
    return Run(
        model=model,
        optimizer=optimizer,
        tokenizer=tokenizer,
        model_cfg=model_cfg,
        train_cfg=cfg,
        order=BatchOrder(train_examples, places=places, seed=cfg.seed),
        val=_val_batches(val_examples, places=places, limit=cfg.eval_steps),
        out=options.out or CHECKPOINT_DIR,
        device=device,
        amp=recipe.compute.amp == "bf16",
        prompt_weight=recipe.data.prompt_weight,
        sample=_sampler(tokenizer, template, T=model_cfg.T, device=device, note=note),
        start_step=start_step,
        best_val_loss=best,
    )


def _overridden(recipe: Recipe, options: Options) -> Recipe:
    train, compute = recipe.train, recipe.compute
    if options.steps is not None:
        train = dataclasses.replace(train, total_steps=options.steps)
    if options.threads is not None:
        compute = dataclasses.replace(compute, threads=options.threads)
    return dataclasses.replace(recipe, train=train, compute=compute)


def _device(asked: str | None) -> str:
    if asked is None:
        return get_device()
    available = {"cpu": True, "mps": torch.backends.mps.is_available(), "cuda": torch.cuda.is_available()}
    if not available[asked]:
        raise TrainingError(f"this machine, or this torch, has no {asked!r}; expected --device cpu")
    return asked


def _tokenizer(
    plan: TokenizerPlan, train_set: Sequence[Dialogue], resumed: dict[str, Any] | None
) -> Tokenizer:
    """Return the checkpoint's own tokenizer when resuming: its ids are what the weights know."""
    if resumed is not None:
        return tokenizer_from_json(resumed.get("tokenizer"))
    if plan.kind == "bytes":
        return tokenizer_from_json(None)
    if plan.path is not None:
        return tokenizer_from_json(_read(plan.path))
    from niels_gpt.bpe import train_bpe  # noqa: PLC0415 - byte models should not pay for the BPE library

    contents = [message["content"] for dialogue in train_set for message in dialogue]
    return train_bpe(contents, plan.vocab_size)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"cannot read the tokenizer {str(path)!r}: {error}") from error


def _fitted(cfg: ModelConfig, tokenizer: Tokenizer, *, note: Callable[[str], None]) -> ModelConfig:
    """Return the config with the tokenizer's V: a text with few pairs gives fewer pieces than asked."""
    if tokenizer.vocab_size == cfg.V:
        return cfg
    note(f"model.V is {tokenizer.vocab_size}, as the tokenizer has it, instead of {cfg.V}")
    return dataclasses.replace(cfg, V=tokenizer.vocab_size)


def _encode(
    dialogues: Sequence[Dialogue], template: Template, *, T: int, note: Callable[[str], None]
) -> list[Example]:
    encoded = [encode_dialogue(dialogue, template, T=T) for dialogue in dialogues]
    examples = [example for example in encoded if example is not None]
    if dialogues and not examples:
        raise TrainingError(f"no dialogue has a reply within the first T={T} tokens; raise model.T")
    if len(examples) < len(encoded):
        note(f"{len(encoded) - len(examples)} dialogues have no reply within the first {T} tokens: left out")
    cut = sum(len(example.ids) == T + 1 for example in examples)
    if cut:
        note(f"{cut} dialogues fill all of T={T} tokens; what is longer was cut")
    return examples


def _val_batches(examples: list[Example], *, places: int, limit: int) -> list[Batch]:
    """Return up to `limit` batches, always the same; a limit takes an even sample of all lengths."""
    groups = fill(sorted(examples, key=lambda example: len(example.ids)), places=places)
    stride = max(1, math.ceil(len(groups) / limit))
    return [collate(group) for group in groups[::stride]]


def _restore(
    resumed: dict[str, Any],
    model_cfg: ModelConfig,
    train_cfg: TrainConfig,
    model: GPT,
    optimizer: torch.optim.Optimizer,
    *,
    path: str,
) -> tuple[int, float]:
    """Put a checkpoint's weights and optimizer in place; return the steps done and the best held-out loss."""
    validate_model_config_match(resumed["model_cfg"], model_cfg)
    seed = resumed["train_cfg"].get("seed", train_cfg.seed)
    if seed != train_cfg.seed:
        raise TrainingError(
            f"{path!r} was trained with seed {seed!r}, the configuration says {train_cfg.seed!r}: "
            "another seed holds out other dialogues; set train.seed to the checkpoint's"
        )
    if resumed["optimizer_state"] is None:
        raise TrainingError(f"{path!r} has no optimizer: released weights cannot be resumed; use latest.pt")
    try:
        model.load_state_dict(resumed["model_state"])
        optimizer.load_state_dict(resumed["optimizer_state"])
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise TrainingError(f"{path!r} does not fit the configured model: {reason}") from error
    best = resumed["best_val_loss"]
    return int(resumed["step"]), math.inf if best is None else float(best)


def _sampler(
    tokenizer: Tokenizer, template: Template, *, T: int, device: str, note: Callable[[str], None]
) -> Callable[[GPT], str] | None:
    """Return what asks the sample question, or None where the context is too short to ask it."""
    conversation = [
        {"role": "system", "content": DEFAULT_SYSTEM_PROMPT},
        {"role": "user", "content": SAMPLE_QUESTION},
    ]
    if len(template.prompt_ids(conversation)) >= T:
        note(f"no sample replies: their prompt does not fit into T={T} tokens")
        return None

    def sample(model: GPT) -> str:
        decoder = TorchDecoder(model, tokenizer, device=device)
        replies = greedy_replies(decoder, template, [conversation], max_new_tokens=60)
        return f"{SAMPLE_QUESTION} -> {' '.join(replies[0].split())}"

    return sample
