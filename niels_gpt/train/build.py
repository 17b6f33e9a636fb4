"""Build a run: configuration and options become a model, data and an optimizer, new or from a checkpoint."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils import deterministic

from niels_gpt.decoding.backend import torch_decoder
from niels_gpt.device import device_named, get_device, torch_device
from niels_gpt.generation.batch import greedy_replies
from niels_gpt.model.registry import Model, build_model
from niels_gpt.paths import CHECKPOINT_DIR, IS_CHECKOUT
from niels_gpt.rng import set_seed
from niels_gpt.text.chat_template import template_for
from niels_gpt.text.system_prompt import DEFAULT_SYSTEM_PROMPT
from niels_gpt.text.tokenizer import Tokenizer
from niels_gpt.train.config import ComputeConfig, DialogueConfig, RunConfig, load_run_config
from niels_gpt.train.data_setup import prepare_data
from niels_gpt.train.distributed import DistributedContext, join
from niels_gpt.train.errors import TrainingError
from niels_gpt.train.graphs import GraphedBackward
from niels_gpt.train.loop import Run, Start
from niels_gpt.train.loss import TrainingForward
from niels_gpt.train.metrics import METRICS_FILE
from niels_gpt.train.optimizer import make_optimizer
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


def build_run(options: TrainOptions, *, note: Callable[[str], None]) -> Run:
    """Build the run that the options describe.

    Args:
        options: The command line.
        note: Receives messages for the user, a line each; called by the main process only.

    Raises:
        ValueError: TrainingError, ConfigError, CheckpointError or TokenizerError, with a one-line message.

    """
    config = _overridden(load_run_config(options.config), options)
    out = options.out or CHECKPOINT_DIR
    device = get_device() if options.device is None else device_named(options.device)
    device = torch_device(device, kernels=False)
    world, device = join(kind=config.compute.parallel, device=device)
    if world.shards and config.optimizer.kind == "muon":
        raise TrainingError(
            "optimizer.kind is 'muon', which needs whole matrices, and compute.parallel 'fsdp2' holds parts "
            "of them; set compute.parallel to 'ddp', or optimizer.kind to 'adamw'"
        )
    if config.compute.graphs:
        _check_graphs(config.compute, world)
    _set_up(config.compute, device)
    note = note if world.is_main else lambda _: None
    if world.is_main:
        _check_folder(out, options)
    if options.out is None and not IS_CHECKOUT:
        note(f"checkpoints go to {out}; --out chooses another folder")
    resumed = None if options.resume is None else read_checkpoint(options.resume)
    stored = None if resumed is None else resumed.get("tokenizer")
    prepared = prepare_data(config, world, stored_tokenizer=stored, resumes=resumed is not None, note=note)
    cfg, model_cfg = config.train, prepared.model_cfg
    set_seed(cfg.seed)
    model = build_model(model_cfg)
    if resumed is not None and options.resume is not None:
        check_fit(resumed, model_cfg, cfg, config.optimizer.kind, path=options.resume)
        put_weights(resumed, model, path=options.resume)
    count = sum(p.numel() for p in model.parameters())  # before a process keeps its part alone
    amp = uses_bfloat16(config.compute.amp, device=device)
    forward = _forward(model.to(device), config.compute, world, device=device, amp=amp)
    optimizer = make_optimizer(forward, device=device, kind=config.optimizer.kind, layers=model.layers())
    environment = _environment(config.compute, world, device=device, amp=amp)
    prompt_weight = config.data.prompt_weight if isinstance(config.data, DialogueConfig) else 0.0
    start = Start()
    if resumed is not None and options.resume is not None:
        put_optimizer(resumed, optimizer, list(forward.parameters()), path=options.resume)
        start = start_of(resumed)
        for line in differences(resumed, cfg=cfg, digest=prepared.data.digest, environment=environment):
            note(line)
    note(_summary(count, prepared.summary, prepared.tokenizer, device, amp=amp, world=world, start=start))
    return Run(
        model=model,
        forward=forward,
        optimizer=optimizer,
        optimizer_kind=config.optimizer.kind,
        tokenizer=prepared.tokenizer,
        model_cfg=model_cfg,
        train_cfg=cfg,
        data=prepared.data,
        out=out,
        device=device,
        accumulation_steps=config.compute.accumulation_steps,
        prompt_weight=prompt_weight,
        graphed=_graphed(forward, config, device=device, T=model_cfg.T, prompt_weight=prompt_weight),
        sample=_sampler(prepared.tokenizer, world, T=model_cfg.T, device=device, note=note),
        start=start,
        world=world,
        environment=environment,
    )


def _overridden(config: RunConfig, options: TrainOptions) -> RunConfig:
    train, compute = config.train, config.compute
    if options.steps is not None:
        train = dataclasses.replace(train, total_steps=options.steps)
    if options.threads is not None:
        compute = compute.model_copy(update={"threads": options.threads})
    return dataclasses.replace(config, train=train, compute=compute)


def _check_folder(out: Path, options: TrainOptions) -> None:
    """Refuse a folder that holds another run, whose files the new run would replace or mix with its own."""
    if options.resume is not None and options.resume.resolve().parent == out.resolve():
        return
    names = ("latest.pt", "best.pt", METRICS_FILE)
    found = [
        path for path in (*(out / name for name in names), *sorted(out.glob("step_*.pt"))) if path.exists()
    ]
    if found and not options.force:
        raise TrainingError(
            f"{str(out)!r} holds another run ({', '.join(path.name for path in found[:3])}, ...): "
            f"resume it with --resume {out / 'latest.pt'}, choose another folder with --out, or replace it "
            "with --force"
        )
    for path in found:
        path.unlink()


def _set_up(compute: ComputeConfig, device: str) -> None:
    if compute.threads is not None:
        torch.set_num_threads(compute.threads)
    if torch.device(device).type == "cuda":
        # Sums have a fixed order, so that a resumed run ends in the same weights on a GPU too. With
        # `warn_only` those of attention's backward pass would have none: two runs on an H100 differed.
        torch.use_deterministic_algorithms(mode=True)
        # Nothing reads memory before it is written, and filling it takes time.
        deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
        torch.backends.cuda.matmul.allow_tf32 = True


def _forward(
    model: Model, compute: ComputeConfig, world: DistributedContext, *, device: str, amp: bool
) -> torch.nn.Module:
    """Return the module that a step calls. Blocks have one form, so compiling one compiles all."""
    forward = TrainingForward(model, amp=amp, recompute=compute.activation_checkpointing)
    if compute.compile:
        _check_compiler(device)
        for block in model.layers():
            block.compile()
    return world.wrapped(forward, device=device)


def _check_graphs(compute: ComputeConfig, world: DistributedContext) -> None:
    """Refuse what needs more than one forward pass a step."""
    clashes = {
        "accumulation_steps": compute.accumulation_steps > 1,
        "activation_checkpointing": compute.activation_checkpointing,
        "several processes": world.size > 1,
    }
    if found := [name for name, clash in clashes.items() if clash]:
        raise TrainingError(
            f"compute.graphs is true, which does not go with {found[0]}; leave one of the two out"
        )


def _graphed(
    forward: torch.nn.Module, config: RunConfig, *, device: str, T: int, prompt_weight: float
) -> GraphedBackward | None:
    if not config.compute.graphs or torch.device(device).type != "cuda":
        return None
    return GraphedBackward(forward, device=device, places=config.train.B * T, prompt_weight=prompt_weight)


def uses_bfloat16(amp: str | None, *, device: str) -> bool:
    """Return whether products run in bfloat16; "auto" chooses it where the device has units for it."""
    if amp != "auto":
        return amp == "bf16"
    match torch.device(device).type:
        case "cuda":
            return torch.cuda.is_bf16_supported(including_emulation=False)
        case "cpu":
            return _processor_has_bfloat16()
        case _:
            return False


def _processor_has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself: a step is then 2.5 times as fast, else slower."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return False
    words = set(info.read_text(encoding="utf-8", errors="replace").split())
    return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})


def _check_compiler(device: str) -> None:
    compilers = (os.environ.get("CXX"), "c++", "g++", "clang++")
    if torch.device(device).type == "cpu" and not any(shutil.which(name) for name in compilers if name):
        raise TrainingError(
            "compute.compile needs a C++ compiler on a CPU, and there is none; install g++, or leave it out"
        )


def _environment(
    compute: ComputeConfig, world: DistributedContext, *, device: str, amp: bool
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
        "graphs": compute.graphs and torch.device(device).type == "cuda",
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
        + (f", resumed after step {start.step}" if start.step else "")
    )


def _sampler(
    tokenizer: Tokenizer, world: DistributedContext, *, T: int, device: str, note: Callable[[str], None]
) -> Callable[[Model], str] | None:
    """Return a function that asks the sample question, or None where it cannot be asked."""
    template = template_for(tokenizer)
    conversation = [
        {"role": "system", "content": DEFAULT_SYSTEM_PROMPT},
        {"role": "user", "content": SAMPLE_QUESTION},
    ]
    if world.shards:
        note("no sample replies: no process holds the whole model")
        return None
    if len(template.prompt_ids(conversation)) >= T:
        note(f"no sample replies: their prompt does not fit in T={T} tokens")
        return None

    def sample(model: Model) -> str:
        decoder = torch_decoder(model, tokenizer, device=device)
        replies = greedy_replies(decoder, template, [conversation], max_new_tokens=60)
        return f"{SAMPLE_QUESTION} -> {' '.join(replies[0].split())}"

    return sample
