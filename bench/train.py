"""Measure tokens per second of a training step, compared with a plain loop and the machine's peak.

    python -m bench.train [--threads 1,2] [--device cpu] [--batch 32] [--steps 3] [--repetitions 3]
                          [--compile] [--quick] [--json PATH]

The plain loop is what a short script does: attention as two products with a softmax between, AdamW parameter
by parameter, a loss read at every step. The trainer's own step runs next to it, in float32 and in bfloat16.
All take turns, and the best of the repetitions counts: whatever disturbs can only slow a step down. The
machine's rate is measured in the same turns: a matrix product of the MLP's shape, in both number types.

B windows, T tokens a window, C width, L layers, F MLP width, V vocabulary.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from bench.measure import facts, load, table
from bench.models import SHAPES, matrix_weights
from niels_gpt.model.config import ModelConfig, TrainConfig
from niels_gpt.model.gpt import GPT
from niels_gpt.rng import set_seed
from niels_gpt.text.tokenizer import ByteTokenizer
from niels_gpt.train.loop import Run, update
from niels_gpt.train.loss import TrainingForward
from niels_gpt.train.optimizer import make_optimizer
from niels_gpt.train.window_data import WindowData

Step = Callable[[int], float]
"""One training step, by its number; returns its loss."""
MakeStep = Callable[[ModelConfig, WindowData, TrainConfig, str], Step]


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to take a training step, and the number type of the products it is compared with."""

    name: str
    make: MakeStep
    rate: torch.dtype


def plain(cfg: ModelConfig, data: WindowData, train_cfg: TrainConfig, device: str) -> Step:
    """The loop of a short script."""
    set_seed(0)
    model = GPT(cfg).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1)
    batches = data.from_position(0)

    def step(_number: int) -> float:
        batch = next(batches).to(device)
        h = model.embed(batch.inputs)
        for block in model.layers():
            h, _ = block(h, return_attn=True)
        logits = model.head(h)
        loss = functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), train_cfg.grad_clip)
        optimizer.step()
        return loss.item()

    return step


def trainer(
    *, amp: bool, compiled: bool = False
) -> Callable[[ModelConfig, WindowData, TrainConfig, str], Step]:
    """The trainer's own step."""

    def make(cfg: ModelConfig, data: WindowData, train_cfg: TrainConfig, device: str) -> Step:
        set_seed(0)
        model = GPT(cfg).to(device)
        if compiled:
            for block in model.layers():
                block.compile()
        forward = TrainingForward(model, amp=amp).train()
        run = Run(
            model=model,
            forward=forward,
            optimizer=make_optimizer(model, device=device),
            tokenizer=ByteTokenizer(),
            model_cfg=cfg,
            train_cfg=train_cfg,
            data=data,
            out=Path(),
            device=device,
        )
        batches = data.from_position(0)
        return lambda number: update(run, next(batches), step=number, lr=3e-4)

    return make


WAYS = (
    Way(name="plain loop", make=plain, rate=torch.float32),
    Way(name="trainer, float32", make=trainer(amp=False), rate=torch.float32),
    Way(name="trainer, bfloat16", make=trainer(amp=True), rate=torch.bfloat16),
)
COMPILED = (
    Way(name="trainer, float32, compiled", make=trainer(amp=False, compiled=True), rate=torch.float32),
    Way(name="trainer, bfloat16, compiled", make=trainer(amp=True, compiled=True), rate=torch.bfloat16),
)


def training_operations(cfg: ModelConfig) -> int:
    """Floating-point operations a learned token cannot do without: three times those of its forward pass.

    Two a multiply-add with each weight; scores and values over half of the window, as causality leaves it.
    """
    return 3 * (2 * matrix_weights(cfg) + 2 * cfg.L * cfg.C * cfg.T)


def product_rate(cfg: ModelConfig, *, rows: int, dtype: torch.dtype, device: str) -> float:
    """Floating-point operations a second of the product (rows, C) by (C, F)."""
    x = torch.randn(rows, cfg.C, dtype=dtype, device=device)
    w = torch.randn(cfg.d_ff, cfg.C, dtype=dtype, device=device)
    functional.linear(x, w)
    _finish(device)
    began = time.perf_counter()
    for _ in range(4):
        functional.linear(x, w)
    _finish(device)
    return 4 * 2 * rows * cfg.C * cfg.d_ff / (time.perf_counter() - began)


def measured(
    ways: Sequence[Way], cfg: ModelConfig, *, B: int, steps: int, repetitions: int, device: str
) -> tuple[dict[str, float], dict[torch.dtype, float]]:
    """Return tokens a second by way, and the machine's rate by number type: the best of all turns."""
    text = bytes(range(min(cfg.V, 256))) * 400
    train_cfg = TrainConfig(B=B)
    made: dict[str, Step] = {}
    pace = dict.fromkeys((way.name for way in ways), 0.0)
    rate = {way.rate: 0.0 for way in ways}
    for way in ways:
        data = WindowData({"text": text}, {}, p={"text": 1.0}, cfg=train_cfg, T=cfg.T)
        made[way.name] = way.make(cfg, data, train_cfg, device)
        made[way.name](0)  # compiles, allocates, chooses algorithms
    for _ in range(repetitions):
        for dtype, best in rate.items():
            rate[dtype] = max(best, product_rate(cfg, rows=B * cfg.T, dtype=dtype, device=device))
        for name, step in made.items():
            _finish(device)
            began = time.perf_counter()
            for number in range(1, steps + 1):
                step(number)
            _finish(device)
            pace[name] = max(pace[name], steps * B * cfg.T / (time.perf_counter() - began))
    del made
    gc.collect()
    return pace, rate


def _finish(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def rows(
    ways: Iterable[Way], pace: dict[str, float], rate: dict[torch.dtype, float], cfg: ModelConfig
) -> list[tuple[str, str, str, str]]:
    """The lines of a table: tokens/s, times the plain loop, share of the machine's rate."""
    base = pace[WAYS[0].name]
    return [
        (
            way.name,
            f"{pace[way.name]:,.0f}",
            f"{pace[way.name] / base:.2f}",
            (
                f"{pace[way.name] * training_operations(cfg) / rate[way.rate]:.0%} of "
                f"{rate[way.rate] / 1e9:,.0f} GFLOPS"
            ),
        )
        for way in ways
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", default="1,2", help="counts, with commas; a GPU ignores them")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shape", choices=tuple(SHAPES), default="3.2M", help="default %(default)s")
    parser.add_argument("--batch", type=int, default=32, metavar="B")
    parser.add_argument("--steps", type=int, default=3, help="steps a turn")
    parser.add_argument("--repetitions", type=int, default=3, help="turns")
    parser.add_argument("--compile", action="store_true", help="torch.compile too: needs a C++ compiler")
    parser.add_argument("--quick", action="store_true", help="a tiny model and one turn, to try the command")
    parser.add_argument("--json", type=Path, metavar="PATH")
    options = parser.parse_args(argv)
    shape, B, steps, turns = options.shape, options.batch, options.steps, options.repetitions
    if options.quick:
        shape, B, steps, turns = "tiny", 2, 1, 1
    cfg = SHAPES[shape]
    ways = (*WAYS, *(COMPILED if options.compile else ()))
    counts = [int(count) for count in options.threads.split(",")] if options.device == "cpu" else [1]
    before, reports = torch.get_num_threads(), []
    print(f"{shape}, B={B}, T={cfg.T}, on {options.device}; {facts()['processor']}, load {load()}")
    for count in counts:
        torch.set_num_threads(count)
        pace, rate = measured(ways, cfg, B=B, steps=steps, repetitions=turns, device=options.device)
        print(f"\n## {count} thread{'s' if count > 1 else ''}\n" if options.device == "cpu" else "")
        header = ("step", "tokens/s", "times the plain loop", "share of a matrix product's rate")
        print(table(header, rows(ways, pace, rate, cfg)), flush=True)
        rates = {str(dtype): value for dtype, value in rate.items()}
        reports.append({"threads": count, "tokens_per_second": pace, "rates": rates})
    torch.set_num_threads(before)
    if options.json is not None:
        content = {"facts": facts(), "shape": shape, "B": B, "device": options.device, "reports": reports}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
