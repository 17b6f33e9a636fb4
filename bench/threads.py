"""What a second thread is worth, and what the default makes of it: on an idle machine and on a busy one.

python -m bench.threads [--models 3.2M,27M] [--streams 1,32] [--busy 0,1,2] [--repetitions 9]

Tokens a second of greedy replies with one thread, with two and with the default
(`niels_gpt.decoding.pacing`), which take turns, while as many other processes as asked do nothing but
compute. Medians, each compared with one thread's. The default has been running for a while when its turns
count, as in a chat. Nothing is judged here.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from bench import measure
from bench.kernel_candidate import KernelCandidate
from bench.models import SHAPES, random_model, random_prompts

PROMPT, TOKENS, WARM_TURNS = 64, 64, 4
WAYS: dict[str, int | None] = {"1 thread": 1, "2 threads": 2, "the default": None}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.threads", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", default="3.2M,27M", help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--streams", default="1,32")
    parser.add_argument("--busy", default="0,1,2", help="other processes that compute")
    parser.add_argument("--repetitions", type=int, default=9)
    options = parser.parse_args(argv)
    about = measure.facts() | {"load before": measure.load()}
    rows = []
    for name in options.models.split(","):
        cfg = SHAPES[name]
        model = random_model(cfg)
        for streams in map(int, options.streams.split(",")):
            prompts = random_prompts(cfg, streams=streams, length=PROMPT)
            for busy in map(int, options.busy.split(",")):
                with computing(busy):
                    ways = {
                        way: KernelCandidate(model, threads=threads, form="float32")
                        for way, threads in WAYS.items()
                    }
                    turns = [
                        [streams * TOKENS / way.decode(prompts, TOKENS + 1) for way in ways.values()]
                        for _ in range(WARM_TURNS + options.repetitions)
                    ]
                rates = [statistics.median(each) for each in zip(*turns[WARM_TURNS:], strict=True)]
                cells = [f"{rate:,.0f} ({rate / rates[0]:.2f})" for rate in rates]
                rows.append([name, streams, busy, *cells])
                print(".", end="", flush=True, file=sys.stderr)
    print("\n" + measure.table(["tokens/s", "streams", "busy processes", *WAYS], rows) + "\n")
    about["load after"] = measure.load()
    print("\n".join(f"{name}: {value}" for name, value in about.items()))
    return 0


@contextmanager
def computing(count: int) -> Iterator[None]:
    """As many processes that do nothing but compute, for as long as the block lasts."""
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=_compute, daemon=True) for _ in range(count)]
    for other in others:
        other.start()
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.join()


def _compute() -> None:
    number = 1
    while True:
        number = number * 5 % 1_000_003


if __name__ == "__main__":
    sys.exit(main())
