"""Measure niels-generate's loop on many prompts, next to the same replies one after another.

Three ways produce the same texts from the same seeds: the loop with a full batch, the loop with one reply at
a time, and the model's own method (torch) for one prompt after another. The first two must agree to the last
token; the third may differ where two tokens are nearly tied, and the table says how often it did. A fourth
row is the rate of the kernels without the engine: the same tokens over the time that the full batch spends
inside them, prompts included. Ratios hold for this run only: the ways take turns, block of prompts by block.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch

from bench.measure import facts, table
from niels_gpt.cli.generate.input_file import open_input
from niels_gpt.cli.generate.plan import Plan
from niels_gpt.cli.generate.prompts import Prompt
from niels_gpt.decoding.backend import open_backend
from niels_gpt.generation.batch import generate_replies
from niels_gpt.generation.batched_decoder import SteppableModel
from niels_gpt.generation.options import make_options
from niels_gpt.generation.sampled import sampled_steps
from niels_gpt.kernels.object_code import Entry
from niels_gpt.model.loading import LoadedModel, load_model
from niels_gpt.paths import SHIPPED_CHECKPOINT
from niels_gpt.rng import reply_seed
from niels_gpt.sampling import Sampling

SAMPLES = 3
TURNS = 5


def questions(count: int) -> list[str]:
    """Prompts of different lengths, none like another."""
    kinds = ("What is {}?", "Tell me about number {} and why it matters.", "{} and", "Once there were {}")
    return [kinds[i % len(kinds)].format(i) for i in range(count)]


def one_by_one(loaded: LoadedModel, prompts: Sequence[Prompt], plan: Plan) -> list[tuple[int, ...]]:
    """The plain loop over the model's own generation."""
    options = make_options(
        max_new_tokens=plan.max_new_tokens, temperature=plan.sampling.temperature, top_k=plan.sampling.top_k,
        repetition_penalty=None, eos_token_id=plan.stop_ids, banned_token_ids=plan.banned_ids,
    )  # fmt: skip
    found = []
    for prompt in prompts:
        for sample in range(plan.samples):
            seed = reply_seed(plan.seed, prompt.index, sample)
            steps = sampled_steps(cast("SteppableModel", loaded.model), [prompt.ids], options, seeds=[seed])
            found.append(tuple(step[0] for step in steps))
    return found


class Ways:
    """The three ways, with their times."""

    def __init__(self, loaded: LoadedModel, plan: Plan, *, batch_size: int) -> None:
        self.loaded, self.plan, self.batch_size = loaded, plan, batch_size
        self.backend = open_backend(loaded, threads=1)
        self.seconds: dict[str, list[float]] = {}
        self.kernel_seconds = 0.0
        """Time inside the kernels in the turns of the full batch."""
        self.ids: dict[str, list[tuple[int, ...]]] = {}

    def turn(self, prompts: Sequence[Prompt]) -> None:
        """Continue a block of prompts in every way."""
        with self._kernels_timed():
            self._timed("together", lambda: self._loop(prompts, self.batch_size))
        self._timed("one at a time", lambda: self._loop(prompts, 1))
        self._timed("own method", lambda: one_by_one(self.loaded, prompts, self.plan))

    @contextmanager
    def _kernels_timed(self) -> Iterator[None]:
        """Add the time inside the kernels to `kernel_seconds`."""
        call = Entry.__call__

        def timed(entry: Entry, words: int, a: int, b: int, c: int) -> int:
            began = time.perf_counter()
            try:
                return call(entry, words, a, b, c)
            finally:
                self.kernel_seconds += time.perf_counter() - began

        Entry.__call__ = timed  # pyright: ignore[reportAttributeAccessIssue]
        try:
            yield
        finally:
            Entry.__call__ = call

    def _timed(self, way: str, work: Callable[[], list[tuple[int, ...]]]) -> None:
        began = time.perf_counter()
        found = work()
        self.seconds.setdefault(way, []).append(time.perf_counter() - began)
        self.ids.setdefault(way, []).extend(found)

    def _loop(self, prompts: Sequence[Prompt], batch_size: int) -> list[tuple[int, ...]]:
        requests = (self.plan.request(p, sample) for p in prompts for sample in range(self.plan.samples))
        found = generate_replies(self.backend.decoder, requests, batch_size=batch_size)
        return [reply.token_ids for reply in found]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if the two ways of the loop differ in any token."""
    parser = argparse.ArgumentParser(prog="bench.inference", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--ckpt", type=Path, default=SHIPPED_CHECKPOINT)
    parser.add_argument("--prompts", type=Path, help="a file, one prompt a line (default: 1,000 made up)")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=60, help="most new tokens of a reply")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--quick", action="store_true", help="a few prompts, to see that it works")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    loaded = load_model(options.ckpt)
    texts = questions(6 if options.quick else options.count)
    if options.prompts is not None:
        texts = [line.text for line in open_input(options.prompts).lines()][: options.count]
    plan = Plan(
        sampling=Sampling(temperature=0.8, top_k=50), max_new_tokens=6 if options.quick else options.tokens,
        samples=SAMPLES, seed=42, stop_ids=loaded.template.stop_ids, stop_sequences=(),
        banned_ids=loaded.template.banned_ids,
    )  # fmt: skip
    prompts = [
        Prompt(index=n, text=text, ids=tuple(loaded.tokenizer.encode_ids(text)))
        for n, text in enumerate(texts)
    ]
    ways = Ways(loaded, plan, batch_size=options.batch_size)
    block = -(-len(prompts) // TURNS)
    for first in range(0, len(prompts), block):
        ways.turn(prompts[first : first + block])
    ways.backend.close()
    return report(ways, len(prompts))


def report(ways: Ways, prompts: int) -> int:
    """Print what was found; the exit status."""
    print("\n".join(f"{name}: {value}" for name, value in facts().items()))
    print(f"\n{prompts:,} prompts x {SAMPLES}, batch {ways.batch_size}\n")
    exact, base = ways.ids["together"], ways.seconds["together"]
    differing, rows = {}, []
    for way, seconds in ways.seconds.items():
        ratio = statistics.median(mine / other for mine, other in zip(seconds, base, strict=True))
        speed = sum(map(len, ways.ids[way])) / sum(seconds)
        differing[way] = sum(a != b for a, b in zip(ways.ids[way], exact, strict=True))
        rows.append([way, f"{speed:,.0f}", f"{ratio:.1f}", f"{differing[way]} of {len(exact):,}"])
    kernels = sum(map(len, exact)) / ways.kernel_seconds
    share = ways.kernel_seconds / sum(base)
    rows.append(["kernels without the engine", f"{kernels:,.0f}", f"{share:.2f}", ""])
    print(table(["way", "tokens/s", "together is faster by", "replies that differ"], rows))
    return int(differing["one at a time"] > 0)


if __name__ == "__main__":
    sys.exit(main())
