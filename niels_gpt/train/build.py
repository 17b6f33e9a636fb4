"""A run put together: recipe and options become a model, data and an optimizer, new or from a checkpoint.

The one place of training that knows all its parts.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from typing import Any

import torch

from niels_gpt.decoding.backend import torch_decoder
from niels_gpt.generation.greedy import greedy_replies
from niels_gpt.model.registry import Model, build_model
from niels_gpt.paths import CHECKPOINT_DIR, ensure_dirs
from niels_gpt.rng import set_seed
from niels_gpt.text.chat_template import template_for
from niels_gpt.text.system_prompt import DEFAULT_SYSTEM_PROMPT
from niels_gpt.text.tokenizer import Tokenizer
from niels_gpt.train.config import ComputePlan, Recipe, load_recipe
from niels_gpt.train.data_setup import prepare
from niels_gpt.train.device import chosen_device, uses_bfloat16
from niels_gpt.train.distributed import DistributedContext, join, load_optimizer
from niels_gpt.train.errors import TrainingError
from niels_gpt.train.loop import Run, Start, make_optimizer
from niels_gpt.train.loss import TrainingForward
from niels_gpt.train.options import TrainOptions
from niels_gpt.train.resume import (
    check_fit,
    differences,
    put_optimizer,
    put_weights,
    read_checkpoint,
    start_of,
)

SAMPLE_QUESTION = "what is niels-gpt?"


def assemble(options: TrainOptions, *, note: Callable[[str], None]) -> Run:
    """Return the run that the options ask for; what a person should know on the way goes to `note`.

    Raises ValueErrors (TrainingError, ConfigError, CheckpointError, TokenizerError) with one-line messages.
    """
    if options.out is None:
        ensure_dirs()
    recipe = _overridden(load_recipe(options.config), options)
    world, device = join(kind=recipe.compute.parallel, device=chosen_device(options.device))
    _set_up(recipe.compute, device)
    note = note if world.leads else lambda _: None
    resumed = None if options.resume is None else read_checkpoint(options.resume)
    stored = None if resumed is None else resumed.get("tokenizer")
    prepared = prepare(recipe, world, stored_tokenizer=stored, resumes=resumed is not None, note=note)
    cfg, model_cfg = recipe.train, prepared.model_cfg
    set_seed(cfg.seed)
    model = build_model(model_cfg)
    if resumed is not None and options.resume is not None:
        check_fit(resumed, model_cfg, cfg, path=options.resume)
        put_weights(resumed, model, path=options.resume)
    count = sum(p.numel() for p in model.parameters())  # before a process keeps its part alone
    amp = uses_bfloat16(recipe.compute.amp, device=device)
    forward = _forward(model.to(device), recipe.compute, world, device=device, amp=amp)
    optimizer = make_optimizer(forward, device=device)
    circumstances = _circumstances(recipe.compute, world, device=device, amp=amp)
    start = Start()
    if resumed is not None and options.resume is not None:
        put_optimizer(resumed, lambda state: load_optimizer(optimizer, state), path=options.resume)
        start = start_of(resumed)
        for line in differences(resumed, digest=prepared.data.digest, circumstances=circumstances):
            note(line)
    note(_summary(count, prepared.summary, prepared.tokenizer, device, amp=amp, world=world, start=start))
    return Run(
        model=model,
        forward=forward,
        optimizer=optimizer,
        tokenizer=prepared.tokenizer,
        model_cfg=model_cfg,
        train_cfg=cfg,
        data=prepared.data,
        out=options.out or CHECKPOINT_DIR,
        device=device,
        accumulation_steps=recipe.compute.accumulation_steps,
        prompt_weight=recipe.data.prompt_weight,
        sample=_sampler(prepared.tokenizer, world, T=model_cfg.T, device=device, note=note),
        start=start,
        world=world,
        circumstances=circumstances,
    )


def _overridden(recipe: Recipe, options: TrainOptions) -> Recipe:
    train, compute = recipe.train, recipe.compute
    if options.steps is not None:
        train = dataclasses.replace(train, total_steps=options.steps)
    if options.threads is not None:
        compute = dataclasses.replace(compute, threads=options.threads)
    return dataclasses.replace(recipe, train=train, compute=compute)


def _set_up(compute: ComputePlan, device: str) -> None:
    if compute.threads is not None:
        torch.set_num_threads(compute.threads)
    if torch.device(device).type == "cuda":
        # Sums in a fixed order, so that a resumed run ends in the same weights on a GPU too.
        torch.use_deterministic_algorithms(mode=True, warn_only=True)
        torch.backends.cuda.matmul.allow_tf32 = True


def _forward(
    model: Model, compute: ComputePlan, world: DistributedContext, *, device: str, amp: bool
) -> torch.nn.Module:
    """Return what a step calls. Blocks are compiled one by one: all have one form, so it is done once."""
    forward = TrainingForward(model, amp=amp, recompute=compute.activation_checkpointing)
    if compute.compile:
        _check_compiler(device)
        for block in model.layers():
            block.compile()
    return world.wrapped(forward, device=device)


def _check_compiler(device: str) -> None:
    compilers = (os.environ.get("CXX"), "c++", "g++", "clang++")
    if torch.device(device).type == "cpu" and not any(shutil.which(name) for name in compilers if name):
        raise TrainingError(
            "compute.compile needs a C++ compiler on a CPU, and there is none; install g++, or leave it out"
        )


def _circumstances(
    compute: ComputePlan, world: DistributedContext, *, device: str, amp: bool
) -> dict[str, Any]:
    return {
        "torch": str(torch.__version__),
        "device": torch.device(device).type,
        "threads": torch.get_num_threads(),
        "processes": world.size,
        "parallel": compute.parallel if world.size > 1 else None,
        "accumulation_steps": compute.accumulation_steps,
        "bfloat16": amp,
        "compile": compute.compile,
    }


def _summary(
    count: int,
    learned: str,
    tokenizer: Tokenizer,
    device: str,
    *,
    amp: bool,
    world: DistributedContext,
    start: Start,
) -> str:
    where = f"{world.size} processes on {device}" if world.size > 1 else device
    return (
        f"{count:,} parameters, {learned}, {tokenizer.vocab_size} token ids, on {where}"
        + (" in bfloat16" if amp else "")
        + (f", going on after step {start.step}" if start.step else "")
    )


def _sampler(
    tokenizer: Tokenizer, world: DistributedContext, *, T: int, device: str, note: Callable[[str], None]
) -> Callable[[Model], str] | None:
    """Return what asks the sample question, or None where it cannot be asked."""
    template = template_for(tokenizer)
    conversation = [
        {"role": "system", "content": DEFAULT_SYSTEM_PROMPT},
        {"role": "user", "content": SAMPLE_QUESTION},
    ]
    if world.shards:
        note("no sample replies: no process holds the whole model")
        return None
    if len(template.prompt_ids(conversation)) >= T:
        note(f"no sample replies: their prompt does not fit into T={T} tokens")
        return None

    def sample(model: Model) -> str:
        decoder = torch_decoder(model, tokenizer, device=device)
        replies = greedy_replies(decoder, template, [conversation], max_new_tokens=60)
        return f"{SAMPLE_QUESTION} -> {' '.join(replies[0].split())}"

    return sample
