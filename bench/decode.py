"""Measure tokens per second: the kernels compared with the best of torch, peers, and hardware limits.

    python -m bench.decode [--models 3.2M,27M] [--streams 1,8,32] [--threads 1,2] [--weights float32,int8]
                           [--peers auto|none] [--tokens 64] [--repetitions 5] [--seconds 0.3]
                           [--json FILE]
    python -m bench.decode --models smollm2,360M,500M [--prompts 128,512,2048] [--limits avx2]

Random weights, greedy replies after prompts of 64 tokens; all in one run. The candidates take turns, each in
a process of its own, and every number is the median of its turns. A floor is the time that a step cannot
beat on this machine: what it has to read (weights, keys and values) over the measured speed of reading that
much, or what it has to compute over the measured peak, whichever is longer. Peers are timed where they are
installed and compute the same logits. Models of other projects are files, timed next to llama.cpp on the same
file (`bench.files`). Nothing is judged here: the numbers are for people.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import files, measure
from bench.candidates import KINDS, Decoding, FirstToken, Worker
from bench.models import SHAPES, step_bytes, step_operations
from niels_gpt.kernels import WeightForm

KERNELS: dict[WeightForm, str] = {"float32": "kernels", "int8": "kernels int8"}

SUMMARY_NAMES = {"kernels int8": "kernels, int8", "eager": "best torch eager (`bench/eager.py`)"}


@dataclass(frozen=True, kw_only=True)
class Floor:
    """Seconds that a step cannot beat."""

    reading: float
    computing: float

    @property
    def seconds(self) -> float:
        """The longer of the two: at best they overlap entirely."""
        return max(self.reading, self.computing)

    def below(self, other: Floor) -> Floor:
        """What both measurements show to be possible."""
        return Floor(reading=min(self.reading, other.reading), computing=min(self.computing, other.computing))


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One candidate at one setting: tokens a second, or seconds to the first token, turn by turn."""

    kind: str
    threads: int
    streams: int
    turns: tuple[float, ...]

    @property
    def median(self) -> float:
        """What is reported."""
        return statistics.median(self.turns)


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that was measured of one model."""

    model: str
    differences: dict[str, float]
    """The largest difference of a logit from torch's, by kind."""
    rates: list[Measured]
    first_tokens: list[Measured]
    floors: dict[str, Floor]
    """By kind's weights, streams and threads; see `floor_key`."""

    def rate(self, kind: str, streams: int, threads: int) -> Measured:
        """One measured rate."""
        wanted = (kind, streams, threads)
        return next(m for m in self.rates if (m.kind, m.streams, m.threads) == wanted)


def floor_key(kind: str, streams: int, threads: int) -> str:
    """The name of a floor."""
    return f"{KINDS[kind].form}, {streams} streams, {threads} threads"


def measure_model(name: str, kinds: Sequence[str], options: argparse.Namespace) -> Report:
    """Start the candidates, check them, and let them take turns."""
    workers = [Worker(kind, name, threads) for kind in kinds for threads in options.threads]
    differences: dict[str, float] = {}
    for worker in workers:
        off = worker.ready()
        differences[worker.kind] = max(off, differences.get(worker.kind, 0.0))
    wrong = {kind for kind, off in differences.items() if not off <= KINDS[kind].farthest}
    for kind in wrong:
        message = f"{kind} computes other logits than torch, by {differences[kind]:.1e}"
        if not KINDS[kind].needs:
            raise RuntimeError(message)
        print(f"{message}: not timed")
    timed = [worker for worker in workers if worker.kind not in wrong]
    rates: list[Measured] = []
    floors: dict[str, Floor] = {}
    for streams in options.streams:
        found, possible = _rates(name, timed, streams, options)
        rates += found
        floors |= possible
    firsts = _first_tokens(timed, options)
    for worker in workers:
        worker.close()
    return Report(model=name, differences=differences, rates=rates, first_tokens=firsts, floors=floors)


def _rates(
    name: str, workers: Sequence[Worker], streams: int, options: argparse.Namespace
) -> tuple[list[Measured], dict[str, Floor]]:
    """Turns of all workers; after each round the floors are tried again, and lowered if they can be."""

    def turn(worker: Worker, seconds: float) -> float:
        return worker.ask(
            Decoding(streams=streams, prompt=options.prompt, new_tokens=options.tokens + 1, seconds=seconds)
        )

    for worker in workers:
        turn(worker, 0.0)  # memory, caches, kernels
    turns, floors = [], {}
    for _ in range(options.repetitions):
        turns.append([turn(worker, options.seconds) for worker in workers])
        for key, floor in _floors(name, streams, options).items():
            floors[key] = floor.below(floors.get(key, floor))
    rates = [
        Measured(kind=worker.kind, threads=worker.threads, streams=streams, turns=each)
        for worker, each in zip(workers, zip(*turns, strict=True), strict=True)
    ]
    return rates, floors


def _first_tokens(workers: Sequence[Worker], options: argparse.Namespace) -> list[Measured]:
    def turn(worker: Worker) -> float:
        return worker.ask(FirstToken(prompt=options.long_prompt))

    for worker in workers:
        turn(worker)
    turns = [[turn(worker) for worker in workers] for _ in range(3 * options.repetitions)]
    return [
        Measured(kind=worker.kind, threads=worker.threads, streams=1, turns=each)
        for worker, each in zip(workers, zip(*turns, strict=True), strict=True)
    ]


def _floors(name: str, streams: int, options: argparse.Namespace) -> dict[str, Floor]:
    cfg, positions, floors = SHAPES[name], options.prompt + options.tokens / 2, {}
    operations = step_operations(cfg, streams=streams, positions=positions)
    for threads in options.threads:
        computing = operations / measure.peak(threads)
        for form in options.weights:
            size = step_bytes(cfg, streams=streams, positions=positions, form=form)
            reading = size / measure.read_bandwidth(size, threads)
            floors[floor_key(KERNELS[form], streams, threads)] = Floor(reading=reading, computing=computing)
    return floors


def candidates_table(report: Report, options: argparse.Namespace) -> str:
    """Tokens a second of every candidate, medians with the least and the most, and its first tokens."""
    header = ["tokens/s", "threads", *(measure.plural(n, "stream") for n in options.streams)]
    rows = []
    for first in report.first_tokens:
        rates = [report.rate(first.kind, streams, first.threads) for streams in options.streams]
        rows.append([
            first.kind, first.threads,
            *(f"{m.median:,.0f} ({min(m.turns):,.0f} to {max(m.turns):,.0f})" for m in rates),
            f"{1e3 * first.median:.1f}", f"{report.differences[first.kind]:.0e}",
        ])  # fmt: skip
    return measure.table([*header, f"first token of {options.long_prompt}, ms", "logits off by"], rows)


def summary_table(report: Report, options: argparse.Namespace) -> str:
    """The medians alone, as docs/arithmetic.md shows them."""
    header = [
        f"{report.model} parameters",
        "threads",
        *(measure.plural(n, "stream") for n in options.streams),
    ]
    rows = []
    for first in report.first_tokens:
        rates = [report.rate(first.kind, streams, first.threads).median for streams in options.streams]
        name = SUMMARY_NAMES.get(first.kind, first.kind)
        rows.append([name, first.threads, *(f"{rate:,.0f}" for rate in rates), f"{1e3 * first.median:.1f}"])
    return measure.table([*header, f"first token of {options.long_prompt}, ms"], rows)


def floors_table(report: Report, options: argparse.Namespace) -> str:
    """Compare the kernels with eager torch and with their lower bounds."""
    rows = []
    for kind in [KERNELS[form] for form in options.weights]:
        for streams in options.streams:
            best = max(report.rate("eager", streams, threads).median for threads in options.threads)
            for threads in options.threads:
                rate = report.rate(kind, streams, threads).median
                floor, step = report.floors[floor_key(kind, streams, threads)], streams / rate
                rows.append([
                    kind, streams, threads,
                    f"{rate / report.rate('eager', streams, threads).median:.2f}", f"{rate / best:.2f}",
                    f"{1e6 * step:,.0f}", f"{1e6 * floor.reading:,.0f}", f"{1e6 * floor.computing:,.0f}",
                    f"{floor.seconds / step:.0%}",
                ])  # fmt: skip
    header = ["", "streams", "threads", "of eager", "of its best threads", "step, µs"]
    return measure.table([*header, "reading, µs", "computing, µs", "floor / step"], rows)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags."""

    def words(text: str) -> list[str]:
        return text.split(",")

    def numbers(text: str) -> list[int]:
        return [int(word) for word in text.split(",")]

    parser = argparse.ArgumentParser(prog="bench.decode", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--models", type=words, default=["3.2M", "27M"], help=f"of {', '.join((*SHAPES, *files.FILES))}"
    )
    parser.add_argument("--streams", type=numbers, default=[1, 8, 32])
    parser.add_argument("--threads", type=numbers, default=[1, 2])
    parser.add_argument("--weights", type=words, default=["float32", "int8"], help="of the kernels")
    parser.add_argument("--peers", choices=("auto", "none"), default="auto")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of each prompt")
    parser.add_argument("--long-prompt", type=int, default=200, help="tokens before a timed first token")
    parser.add_argument("--tokens", type=int, default=64, help="timed tokens of each reply")
    parser.add_argument("--prompts", type=numbers, default=[*files.PROMPTS], help="of files, tokens each")
    parser.add_argument("--limits", type=words, default=[], help="also the kernels limited to: avx2")
    parser.add_argument("--repetitions", type=int, default=5, help="turns of each candidate")
    parser.add_argument("--seconds", type=float, default=0.3, help="decoding of each turn, at least")
    parser.add_argument("--json", type=Path, help="also write every measured number here")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    options = parse(argv)
    peers = [kind for kind in KINDS if KINDS[kind].needs] if options.peers == "auto" else []
    missing = [kind for kind in peers if not KINDS[kind].installed]
    kinds = [*(KERNELS[form] for form in options.weights), "eager", *peers]
    kinds = [kind for kind in kinds if kind not in missing]
    about = measure.facts() | {"load before": measure.load()}
    reports = []
    of_files, of_ours = files.split(options.models)
    found = [files.measure_file(name, options) for name in of_files]
    for name in of_ours:
        report = measure_model(name, kinds, options)
        reports.append(report)
        print(
            f"\n## {name}\n\n{candidates_table(report, options)}\n\n{floors_table(report, options)}\n\n"
            f"For docs/arithmetic.md:\n\n{summary_table(report, options)}\n",
            flush=True,
        )
    about["load after"] = measure.load()
    print("\n".join(f"{name}: {value}" for name, value in about.items()))
    if missing:
        print(f"not installed: {', '.join(missing)}")
    if options.json:
        content = {"machine": about, "reports": [asdict(report) for report in reports], "files": found}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
