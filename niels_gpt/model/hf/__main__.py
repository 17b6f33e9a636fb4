"""The command `python -m niels_gpt.model.hf`: write a checkpoint as a Hugging Face folder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from niels_gpt import program


def main(argv: Sequence[str] | None = None) -> int:
    """Export; 0 when it is written, 2 with one line on stderr when it is not."""
    return program.run("niels_gpt.model.hf", lambda: _convert(argv), failed=2, expected=lambda: (ValueError,))


def _convert(argv: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m niels_gpt.model.hf", description="Write a checkpoint as a Hugging Face folder."
    )
    directions = parser.add_subparsers(dest="direction", required=True)
    out = directions.add_parser("export", help="write a folder that transformers loads")
    out.add_argument("ckpt", type=Path, metavar="CKPT", help="checkpoint to read")
    out.add_argument("folder", type=Path, metavar="DIR", help="folder to write")
    options = parser.parse_args(argv)
    from niels_gpt.model.hf.export import export  # noqa: PLC0415 - torch, after the flags are known to be good

    for path in export(options.ckpt, options.folder):
        print(f"{path}: {path.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    program.run_process(main)
