"""Measure the speed of the whole product: every part by its own benchmark, next to its baseline, in one run.

    python -m bench.product [--limit avx2] [--model smollm2] [--only streams,generate] [--quick]

Each part is a process of its own, one after the other. Its output is printed as it is, and the figures that
sum it up are collected in one table at the end. `--limit avx2` limits the kernels to that instruction set;
torch, llama.cpp and other programs use whatever the processor has. Peers are timed where they are installed.
Nothing is judged here.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench import measure
from bench.files import LIMITS
from niels_gpt.paths import REPO_ROOT


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number of a part's tables: the first row that begins with these cells, and the column's name."""

    what: str
    row: tuple[str, ...]
    column: str


@dataclass(frozen=True, kw_only=True)
class Part:
    """A benchmark, its arguments, and the figures that sum it up. {model} stands for the model's name."""

    module: str
    arguments: str = ""
    quick: str = ""
    figures: tuple[Figure, ...] = ()


def _streams(name: str) -> Part:
    quick = "--models tiny --streams 2 --tokens 4 --repetitions 1 --seconds 0 --peers none"
    shared = "--threads 1 --weights float32"
    return Part(
        module="bench.decode",
        arguments=f"--models {name} --streams 1,32 {shared}",
        quick=f"{quick} {shared}",
        figures=(
            Figure(
                what=f"32 streams, {name}: times the best eager torch",
                row=("kernels", "32", "1"),
                column="of its best threads",
            ),
            Figure(
                what=f"32 streams, {name}: share of the floor",
                row=("kernels", "32", "1"),
                column="floor / step",
            ),
        ),
    )


PARTS: dict[str, Part] = {
    "start": Part(
        module="bench.startup",
        quick="--runs 1",
        figures=(
            Figure(
                what="first token after a warm start, seconds",
                row=("niels-chat, first token of a line typed at once",),
                column="seconds",
            ),
            Figure(what="import of torch, seconds", row=("python -c 'import torch'",), column="seconds"),
        ),
    ),
    "streams 27M": _streams("27M"),
    "streams 3.2M": _streams("3.2M"),
    "python": Part(
        module="bench.step",
        arguments="--models 3.2M --streams 32",
        quick="--models tiny --streams 2 --repetitions 1",
        figures=(
            Figure(
                what="32 streams, 3.2M: share of a step in Python",
                row=("the rest, in Python",),
                column="share",
            ),
        ),
    ),
    "generate": Part(
        module="bench.inference",
        quick="--quick",
        figures=(
            Figure(
                what="niels-generate: share of the bare kernels' rate",
                row=("kernels without the engine",),
                column="together is faster by",
            ),
        ),
    ),
    "speculation": Part(
        module="bench.speculation",
        arguments="--ckpt {model}",
        quick="--quick",
        figures=tuple(
            Figure(what=f"speculative decoding, {kind}: times as fast", row=(kind,), column="times as fast")
            for kind in ("turns that quote", "retries with a near-repeat", "other turns")
        ),
    ),
    "prompts": Part(
        module="bench.decode",
        arguments="--models {model} --streams 1 --threads 1 --prompts 128,512,2048",
        quick="--models tiny --streams 1 --threads 1 --weights float32 --peers none --tokens 4 "
        "--repetitions 1 --seconds 0",
        figures=(
            Figure(
                what="decode of one stream: of llama.cpp's speed, by processor time",
                row=("decode, streams: 1", "kernels"),
                column="by processor time",
            ),
            Figure(
                what="prompt of 2,048: of llama.cpp's speed, by processor time",
                row=("prompt of 2048", "kernels"),
                column="by processor time",
            ),
        ),
    ),
}
"""By name, in their order."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if a part failed."""
    parser = argparse.ArgumentParser(prog="bench.product", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--limit", choices=tuple(LIMITS), help="limit the kernels to an instruction set")
    parser.add_argument("--model", default="smollm2", help="of other projects, default %(default)s")
    parser.add_argument("--only", help=f"parts, of {', '.join(PARTS)}; default all")
    parser.add_argument("--quick", action="store_true", help="a little of everything, to try the command")
    options = parser.parse_args(argv)
    names = list(PARTS) if options.only is None else options.only.split(",")
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        parser.error(f"unknown part {unknown[0]!r}; expected some of {', '.join(PARTS)}")
    environment = {**os.environ, **LIMITS.get(options.limit, {})}
    lines, failed = [], []
    for name in names:
        print(f"\n# {name}\n", flush=True)
        part = PARTS[name]
        arguments = part.quick if options.quick else part.arguments.format(model=options.model)
        done = subprocess.run(
            [sys.executable, "-m", part.module, *arguments.split()],
            env=environment, cwd=REPO_ROOT, stdout=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
        print(done.stdout, flush=True)
        if done.returncode:
            failed.append(name)
        lines += [[figure.what, found_in(done.stdout, figure)] for figure in part.figures]
    instructions = options.limit or measure.facts()["vectors"]
    print(f"\n# All\n\n{measure.processor()}, kernels: {instructions}, load {measure.load()}\n")
    print(measure.table(["what", "measured"], lines))
    for name in failed:
        print(f"{name} failed: its own message is above")
    return 1 if failed else 0


def found_in(text: str, figure: Figure) -> str:
    """Return a figure from the tables of a text, "not measured" where it is in none."""
    for row in _rows(text):
        cells = list(row.values())[: len(figure.row)]
        begins = len(cells) == len(figure.row) and all(
            cell == wanted or cell.startswith(f"{wanted} (")
            for cell, wanted in zip(cells, figure.row, strict=True)
        )
        if begins and row.get(figure.column):
            return row[figure.column]
    return "not measured"


def _rows(text: str) -> Iterator[Mapping[str, str]]:
    """Yield the rows of the tables in Markdown, by column; of columns with one name the last."""
    header: list[str] | None = None
    for line in text.splitlines():
        if not line.startswith("|"):
            header = None
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if header is None:
            header = cells
        elif not all(set(cell) <= set("-:") for cell in cells):
            yield dict(zip(header, cells, strict=False))


if __name__ == "__main__":
    sys.exit(main())
