"""The command `python -m niels_gpt.model.hf`: a checkpoint into a Hugging Face folder, and back."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from niels_gpt import program


def main(argv: Sequence[str] | None = None) -> int:
    """Export or import; 0 when it is written, 2 with one line on stderr when it is not."""
    return program.run("niels_gpt.model.hf", lambda: _convert(argv), failed=2, expected=lambda: (ValueError,))


def _convert(argv: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m niels_gpt.model.hf", description="Checkpoints as Hugging Face folders, and back."
    )
    directions = parser.add_subparsers(dest="direction", required=True)
    out = directions.add_parser("export", help="write a folder that transformers loads")
    out.add_argument("ckpt", type=Path, metavar="CKPT", help="checkpoint to read")
    out.add_argument("folder", type=Path, metavar="DIR", help="folder to write")
    back = directions.add_parser("import", help="write a checkpoint of a GPT-NeoX or Llama folder")
    back.add_argument("folder", type=Path, metavar="DIR", help="folder to read")
    back.add_argument("ckpt", type=Path, metavar="CKPT", help="checkpoint to write")
    options = parser.parse_args(argv)
    _export(options) if options.direction == "export" else _import(options)
    return 0


def _export(options: argparse.Namespace) -> None:
    from niels_gpt.model.hf.export import export  # noqa: PLC0415 - torch, after the flags are known to be good

    for path in export(options.ckpt, options.folder):
        print(f"{path}: {path.stat().st_size:,} bytes")


def _import(options: argparse.Namespace) -> None:
    from niels_gpt.model.hf.load import load_folder  # noqa: PLC0415 - see _export

    cfg = load_folder(options.folder, options.ckpt, note=print)
    print(f"{options.ckpt}: norm {cfg.norm}, mlp {cfg.mlp}, V={cfg.V}, T={cfg.T}, C={cfg.C}, L={cfg.L}")


if __name__ == "__main__":
    program.run_process(main)
