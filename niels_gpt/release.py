"""A checkpoint made small enough to ship: the weights, the configs and the tokenizer, without the optimizer.

`python -m niels_gpt.release --ckpt checkpoints/best.pt --out checkpoints/niels-gpt.pt`. The result loads like
any checkpoint and talks alike; only training cannot go on from it. Knows nothing about training.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def release(source: Path, target: Path) -> int:
    """Write `source` to `target` without its optimizer; return the size of the new file in bytes.

    Raises CheckpointError (a ValueError) for a file that cannot be loaded, OSError where none can be written.
    """
    # torch, after the command line is known to be good
    from niels_gpt.checkpoint import load_checkpoint, save_checkpoint  # noqa: PLC0415
    from niels_gpt.loading import load_model  # noqa: PLC0415

    loaded = load_model(source)
    content = load_checkpoint(source, device="cpu")
    target.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(
        target,
        model_cfg=loaded.cfg,
        train_cfg=content["train_cfg"],
        model=loaded.model,
        optimizer=None,
        step=loaded.step,
        best_val_loss=content["best_val_loss"],
        tokenizer=loaded.tokenizer,
    )
    return target.stat().st_size


def main(argv: Sequence[str] | None = None) -> int:
    """Release a checkpoint; 0 when the file is written, 2 with one line on stderr when it is not."""
    parser = argparse.ArgumentParser(
        prog="python -m niels_gpt.release", description="Strip a checkpoint of its optimizer."
    )
    parser.add_argument(
        "--ckpt", type=Path, required=True, metavar="PATH", help="checkpoint that training wrote"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="PATH", help="file to write")
    args = parser.parse_args(argv)
    try:
        size = release(args.ckpt, args.out)
    except (ValueError, OSError) as error:
        print(f"niels_gpt.release: {error}", file=sys.stderr)
        return 2
    print(f"{args.out}: {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
