"""Measure the engine's cost and reaction times, each with its baseline in the same run.

    python -m bench.engine [--ckpt PATH] [--backend asyncio|trio] [--turns 9] [--tokens 300] [--seconds 5]
                           [--json FILE] [--quick]

The shipped model on one thread, replies sampled as in a chat. Rates are medians of turns that alternate with
their baseline. Nothing is judged here: the numbers are for people. The rows:

- tokens a second through the engine, jobs awaited or followed token by token, over those of a bare loop;
- how late a ticker of 1 ms is on the event loop while jobs are decoded, compared with the same ticker idle;
- how long from `cancel()` to the terminal event, and in steps with that job that began meanwhile;
- what one event costs the engine in processor time, over a decoder that costs next to nothing;
- the first token of a short prompt alone and behind long ones that are being read;
- the first token of a follow-up turn, with and without the pool of states.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import torch

from bench import engine_figures as figures
from bench import measure
from niels_gpt.kernels.gpt_packing import pack_gpt
from niels_gpt.model.loading import load_model
from niels_gpt.paths import SHIPPED_CHECKPOINT

JOBS = (1, 32)
SHORT = 16  # tokens of a short prompt
PREFIX_CACHE_BYTES = 64 * 2**20


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.engine", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--ckpt", type=Path, default=SHIPPED_CHECKPOINT)
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--tokens", type=int, default=300, help="of a reply, default %(default)s")
    parser.add_argument("--seconds", type=float, default=5.0, help="of watching the event loop")
    parser.add_argument("--json", type=Path, help="also write the numbers there")
    parser.add_argument("--quick", action="store_true", help="a little of everything, to try the command")
    options = parser.parse_args(argv)
    if options.quick:
        options.turns, options.tokens, options.seconds = 1, 8, 0.05
    torch.set_num_threads(1)
    loaded = load_model(options.ckpt)
    place = figures.Place(
        packed=pack_gpt(loaded.gpt), tokenizer=loaded.tokenizer, backend=options.backend,
        turns=options.turns, tokens=min(options.tokens, loaded.cfg.T - SHORT), seconds=options.seconds,
    )  # fmt: skip
    gc.freeze()  # as the chat does: a full collection of torch's objects would be the longest lag of all
    report(place, file=options.json)
    return 0


def report(place: figures.Place, *, file: Path | None = None) -> None:
    """Measure everything, print it, and write it to `file` as JSON."""
    tables = {name: rows(place) for name, rows in TABLES.items()}
    facts = measure.facts() | {"event loop": place.backend, "load": measure.load()}
    print("\n".join(f"{name}: {value}" for name, value in facts.items()))
    for name, (header, rows) in tables.items():
        print(f"\n## {name}\n\n{measure.table(header, rows)}")
    if file is not None:
        record = {"facts": facts, "tables": {n: {"header": h, "rows": r} for n, (h, r) in tables.items()}}
        file.write_text(json.dumps(record, indent=1), encoding="utf-8")


Table = tuple[list[str], list[list[str]]]


def _throughput(place: figures.Place) -> Table:
    rows: list[list[str]] = []
    for jobs, followed in product(JOBS, (False, True)):
        pairs = figures.throughput(place, jobs, followed=followed)
        ratios = sorted(engine / bare for bare, engine in pairs)
        bare, engine = (statistics.median(rates) for rates in zip(*pairs, strict=True))
        spread = f"{ratios[0]:.3f} to {ratios[-1]:.3f}"
        name = f"{jobs}, {'each followed' if followed else 'awaited'}"
        rows.append([name, f"{bare:,.0f}", f"{engine:,.0f}", f"{statistics.median(ratios):.3f}", spread])
    return [
        "jobs",
        "bare loop, tokens/s",
        "engine, tokens/s",
        "ratio, median of turns",
        "least to most",
    ], rows


def _lag(place: figures.Place) -> Table:
    rows: list[list[str]] = []
    for name, jobs in (("idle", 0), *((measure.plural(jobs, "job"), jobs) for jobs in JOBS)):
        late = place.run(figures.lag, place, jobs)
        ranks = (late[len(late) // 2], late[int(len(late) * 0.99)], late[-1])
        rows.append([name, f"{len(late):,}", *(f"{1000 * seconds:.2f}" for seconds in ranks)])
    return ["while decoding", "ticks", "p50, ms late", "p99", "most"], rows


def _cancels(place: figures.Place) -> Table:
    rows: list[list[str]] = []
    for jobs in JOBS:
        found = place.run(figures.cancels, place, jobs)
        if not found:
            continue
        took = [1000 * one.seconds for one in found]
        steps = [one.steps for one in found]
        rows.append(
            [
                str(jobs), str(len(found)), f"{statistics.median(took):.2f}", f"{max(took):.2f}",
                f"{1000 * found[-1].step_seconds:.2f}", f"{statistics.mean(steps):.2f}", str(max(steps)),
            ]
        )  # fmt: skip
    return [
        "jobs", "cancels", "until the end, ms, median", "most", "a step, ms", "steps begun, mean", "most",
    ], rows  # fmt: skip


def _events(place: figures.Place) -> Table:
    rows: list[list[str]] = []
    for followers in (0, 1, 10):
        costs = [
            place.run(figures.event_cost, 40 * place.tokens, followers) for _ in range(max(3, place.turns))
        ]
        rows.append([str(followers), f"{1e6 * statistics.median(costs):.1f}"])
    return ["followers", "µs of processor time an event"], rows


def _milliseconds(place: figures.Place, measured: Callable[[], float]) -> str:
    return f"{1000 * statistics.median(measured() for _ in range(max(2, place.turns))):.2f}"


def _first_tokens(place: figures.Place) -> Table:
    async def once(ahead: int, prompt: int) -> float:
        return await figures.first_token(place, ahead=ahead, prompt=prompt)

    long = place.packed.T - 8
    rows = [
        [name, _milliseconds(place, lambda ahead=ahead, prompt=prompt: place.run(once, ahead, prompt))]
        for name, ahead, prompt in (
            (f"{SHORT} tokens, alone", 0, SHORT),
            (f"{SHORT} tokens, behind one of {long} that is being read", 1, SHORT),
            (f"{SHORT} tokens, behind eight of {long}", 8, SHORT),
            (f"{long} tokens, alone", 0, long),
        )
    ]
    return ["prompt", "first token, ms"], rows


def _follow_ups(place: figures.Place) -> Table:
    async def once(prefix_cache_bytes: int, history: int) -> float:
        return await figures.follow_up(place, prefix_cache_bytes=prefix_cache_bytes, history=history)

    rows: list[list[str]] = []
    for history in (place.packed.T // 4, place.packed.T * 3 // 4):
        cells = [
            _milliseconds(place, lambda pool=pool, history=history: place.run(once, pool, history))
            for pool in (0, PREFIX_CACHE_BYTES)
        ]
        rows.append([str(history), *cells, f"{float(cells[0]) / float(cells[1]):.1f}"])
    return ["tokens before the question", "first token without the pool, ms", "with it", "times sooner"], rows


TABLES: dict[str, Callable[[figures.Place], Table]] = {
    "Tokens a second": _throughput,
    "The event loop": _lag,
    "Cancelling": _cancels,
    "Events": _events,
    "The first token behind long prompts": _first_tokens,
    "A follow-up turn": _follow_ups,
}

if __name__ == "__main__":
    sys.exit(main())
