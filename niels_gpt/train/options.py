"""Parse the command line of training.

This module imports nothing heavy, so that `--help` and a mistyped flag are answered at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

DEVICES = ("cpu", "mps", "cuda")


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The flags; None leaves the choice to the configuration or to the machine."""

    config: Path
    device: str | None
    resume: Path | None
    out: Path | None
    steps: int | None
    threads: int | None
    force: bool
    tensorboard: bool


def parse_options(argv: Sequence[str] | None = None) -> TrainOptions:
    """Parse the command line; a wrong flag prints the usage and exits with status 2, as argparse does."""
    parser = argparse.ArgumentParser(
        prog="python -m niels_gpt.train",
        description="Train a model on text or on chat dialogues; checkpoints are written to checkpoints/.",
    )
    add = parser.add_argument
    add("--config", type=Path, required=True, metavar="PATH", help="JSON: model, train, data, compute")
    add("--device", choices=DEVICES, help="default: mps where there is one, else cpu")
    add(
        "--resume",
        type=Path,
        metavar="PATH",
        help="continue from this checkpoint, optimizer and step included",
    )
    add("--out", type=Path, metavar="DIR", help="folder of the checkpoints (default checkpoints/)")
    add(
        "--steps", type=_positive, metavar="N", help="total steps instead of the configuration's, for a trial"
    )
    add("--threads", type=_positive, metavar="N", help="threads instead of the configuration's")
    add("--force", action="store_true", help="replace an earlier run in the folder of the checkpoints")
    add(
        "--tensorboard",
        action="store_true",
        help="write event files too, next to the checkpoints",
    )
    return TrainOptions(**vars(parser.parse_args(argv)))


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)
