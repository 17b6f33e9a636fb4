"""Plot a training run: `python -m niels_gpt.train.plot runs/NAME` draws loss and learning rate.

The command reads `metrics.jsonl` and writes `metrics.png` next to it. Without matplotlib (extra `train`), or
with `--text`, it prints the curves in plain characters.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from niels_gpt import program

WIDTH, HEIGHT = 72, 16  # of a plot in characters

Points = list[tuple[int, float]]


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Points (step, value) of a run: the training loss, the held-out loss by source, the learning rate."""

    loss: Points
    held_out: dict[str, Points]
    lr: Points


def read_curves(path: Path) -> Curves:
    """Return the curves of a run's folder, or of its metrics file; ValueError where there are none."""
    from niels_gpt.train.metrics import METRICS_FILE, read_metrics  # noqa: PLC0415 - torch comes with it

    file = path / METRICS_FILE if path.is_dir() else path
    lines = read_metrics(file)
    if not lines:
        raise ValueError(f"{str(file)!r} has no metrics; give the folder that a training run writes to")
    return curves_of(lines)


def curves_of(lines: Sequence[Mapping[str, Any]]) -> Curves:
    """Sort the lines of a metrics file into curves."""
    held_out: dict[str, Points] = {}
    for line in lines:
        for name, value in line.get("val", {}).items():
            held_out.setdefault(name, []).append((line["step"], value))
    return Curves(
        loss=[(line["step"], line["loss"]) for line in lines if "loss" in line],
        held_out=held_out,
        lr=[(line["step"], line["lr"]) for line in lines if "lr" in line],
    )


def draw(curves: Curves, target: Path, *, title: str) -> None:
    """Write the curves as a PNG; ImportError without matplotlib."""
    import matplotlib as mpl  # noqa: PLC0415 - an extra

    mpl.use("Agg")  # which needs no screen
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after the choice of how to draw

    figure, (upper, lower) = plt.subplots(2, 1, sharex=True, figsize=(8, 6), height_ratios=(3, 1))
    upper.plot(*_columns(curves.loss), label="training", linewidth=1, color="0.6")
    for name, points in curves.held_out.items():
        upper.plot(*_columns(points), label=f"held out: {name}", marker="o", markersize=3)
    upper.set_ylabel("loss (nats a token)")
    upper.set_title(title)
    upper.legend()
    upper.grid(alpha=0.3)
    lower.plot(*_columns(curves.lr), color="0.3")
    lower.set_ylabel("learning rate")
    lower.set_xlabel("step")
    lower.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(target, dpi=120)
    plt.close(figure)


def as_text(curves: Curves) -> str:
    """Return the curves in plain characters: `.` training, a letter for each held-out source."""
    marks = {name: chr(ord("a") + n % 26) for n, name in enumerate(curves.held_out)}
    losses = {".": curves.loss} | {marks[name]: points for name, points in curves.held_out.items()}
    legend = ["loss: . training", *(f"{mark} held out: {name}" for name, mark in marks.items())]
    return "\n".join(["   ".join(legend), *_grid(losses), "", "learning rate", *_grid({"*": curves.lr})])


def _grid(curves: Mapping[str, Points]) -> list[str]:
    points = [point for curve in curves.values() for point in curve]
    if not points:
        return ["(nothing yet)"]
    steps, values = [step for step, _ in points], [value for _, value in points]
    low, high, first, last = min(values), max(values), min(steps), max(steps)
    rows = [[" "] * WIDTH for _ in range(HEIGHT)]
    for mark, curve in curves.items():
        for step, value in curve:
            x = round((step - first) / max(last - first, 1) * (WIDTH - 1))
            y = round((high - value) / ((high - low) or 1.0) * (HEIGHT - 1))
            rows[y][x] = mark
    labels = {0: f"{high:.4g}", HEIGHT - 1: f"{low:.4g}"}
    lines = [f"{labels.get(n, ''):>10} |{''.join(row).rstrip()}" for n, row in enumerate(rows)]
    ends = f"{first:<{WIDTH // 2}}{last:>{WIDTH - WIDTH // 2}}"
    return [*lines, f"{'':10} +{'-' * WIDTH}", f"{'step':>10}  {ends}"]


def _columns(points: Points) -> tuple[list[int], list[float]]:
    return [step for step, _ in points], [value for _, value in points]


def main(argv: Sequence[str] | None = None) -> int:
    """Draw a run; 0 when it is drawn, 2 with one line on stderr when it cannot be."""
    name = "niels_gpt.train.plot"
    return program.run(name, lambda: _plot(argv), failed=2, expected=lambda: (ValueError,))


def _plot(argv: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m niels_gpt.train.plot", description="Draw a training run."
    )
    add = parser.add_argument
    add(
        "run",
        type=Path,
        metavar="DIR",
        help="folder that training wrote to, such as checkpoints or runs/NAME",
    )
    add("--out", type=Path, metavar="PATH", help="picture to write (default metrics.png in the folder)")
    add("--text", action="store_true", help="plain characters instead of a picture")
    options = parser.parse_args(argv)
    curves = read_curves(options.run)
    if not options.text:
        folder = options.run if options.run.is_dir() else options.run.parent
        target = options.out or folder / "metrics.png"
        try:
            draw(curves, target, title=folder.resolve().name)
        except ImportError:
            print("plain characters: for a picture, pip install 'niels-gpt[train]'", file=sys.stderr)
        else:
            print(target)
            return 0
    print(as_text(curves))
    return 0


if __name__ == "__main__":
    program.run_process(main)
