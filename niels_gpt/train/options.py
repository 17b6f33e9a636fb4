"""The command line of training, as a frozen value.

Imports nothing heavy, so that `--help` and a mistyped flag answer at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

DEVICES = ("cpu", "mps", "cuda")


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What was asked for; None leaves it to the configuration or to the machine."""

    config: Path
    device: str | None
    resume: Path | None
    out: Path | None
    steps: int | None
    threads: int | None
    tensorboard: bool


def parse_options(argv: Sequence[str] | None = None) -> TrainOptions:
    """Read the command line; a bad one prints its usage and exits 2, as argparse does."""
    parser = argparse.ArgumentParser(
        prog="python -m niels_gpt.train",
        description="Train a model on text or on chat dialogues; checkpoints land in checkpoints/.",
    )
    add = parser.add_argument
    add("--config", type=Path, required=True, metavar="PATH", help="JSON: model, train, data, compute")
    add("--device", choices=DEVICES, help="default: mps where there is one, else cpu")
    add("--resume", type=Path, metavar="PATH", help="go on from this checkpoint, optimizer and step included")
    add("--out", type=Path, metavar="DIR", help="folder of the checkpoints (default checkpoints/)")
    add(
        "--steps", type=_positive, metavar="N", help="total steps instead of the configuration's, for a trial"
    )
    add("--threads", type=_positive, metavar="N", help="threads instead of the configuration's")
    add("--tensorboard", action="store_true", help="event files too, in a folder beside the checkpoints")
    return TrainOptions(**vars(parser.parse_args(argv)))


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)
