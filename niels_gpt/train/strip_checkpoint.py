"""Strip a checkpoint for release: keep weights, configs and tokenizer, drop the optimizer.

`python -m niels_gpt.train.strip_checkpoint --ckpt runs/mine/latest.pt --out runs/mine/model.pt`.
Several checkpoints of one run become the mean of their weights, which generalises better than the last of
them (Izmailov et al. 2018, arXiv 1803.05407). A run that resumes from the result starts with a
new optimizer state. A card says in JSON what the run was: steps, losses, settings, digests.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from niels_gpt import program
from niels_gpt.model.config import save_json
from niels_gpt.train.metrics import METRICS_FILE, read_metrics

if TYPE_CHECKING:  # torch is imported after the command line was checked
    from niels_gpt.model.loading import LoadedModel


def strip_checkpoint(
    sources: Sequence[Path], target: Path, *, card: Path | None = None, bfloat16: bool = False
) -> str:
    """Write the mean of `sources` to `target` without an optimizer.

    Config, tokenizer and step are those of the last source.

    Args:
        sources: Checkpoints of one run.
        target: The file to write.
        card: Where to write what the run was, if anywhere.
        bfloat16: Round the weights to bfloat16, which halves the file. Loading widens them exactly.

    Returns:
        SHA-256 of the weights as they are loaded from the new file, in hex.

    Raises:
        CheckpointError: A file cannot be loaded, or the checkpoints are of different runs.
        OSError: The target cannot be written.

    """
    from niels_gpt.model.checkpoint import load_checkpoint, save_checkpoint  # noqa: PLC0415
    from niels_gpt.model.loading import load_model  # noqa: PLC0415

    last = load_model(sources[-1])
    _average(last, [load_model(source) for source in sources[:-1]])
    content = load_checkpoint(sources[-1], device="cpu")
    if bfloat16:
        last.model.bfloat16()
    target.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(
        target,
        model_cfg=last.own_cfg,
        train_cfg=content["train_cfg"],
        model=last.model,
        optimizer=None,
        step=last.step,
        best_val_loss=content["best_val_loss"],
        tokenizer=last.tokenizer,
    )
    stripped = load_model(target)
    if card is not None:
        save_json(card, _card(content, stripped, sources[-1].parent / METRICS_FILE))
    return stripped.fingerprint.weights


def _card(content: Mapping[str, Any], stripped: LoadedModel, metrics: Path) -> dict[str, Any]:
    """Return what the page of a checkpoint quotes: how it was trained, on what, and what came out."""
    lines = read_metrics(metrics)
    run = content.get("run") or {}
    state = stripped.state or {}
    shared = {"lm_head.weight"} if stripped.own_cfg.tie_embeddings else set()
    return {
        "steps": stripped.step,
        "parameters": sum(value.size for name, value in state.items() if name not in shared),
        "loss": {
            "training": next((line["loss"] for line in reversed(lines) if "loss" in line), None),
            "held out": next((line["val_loss"] for line in reversed(lines) if "val_loss" in line), None),
            "lowest held out": content["best_val_loss"],
        },
        "digests": {
            "data": run.get("data", {}).get("digest"),
            "weights": stripped.fingerprint.weights,
            "tokenizer": stripped.fingerprint.tokenizer,
            "model": stripped.fingerprint.digest,
        },
        "model": dict(content["model_cfg"]),
        "train": dict(content["train_cfg"]),
        "optimizer": run.get("optimizer"),
        "environment": run.get("environment"),
    }


def _average(last: LoadedModel, others: Sequence[LoadedModel]) -> None:
    """Turn the weights of `last` into the mean of all, summed in float64."""
    import torch  # noqa: PLC0415

    from niels_gpt.model.checkpoint import CheckpointError  # noqa: PLC0415

    for other in others:
        if other.cfg != last.cfg or other.fingerprint.tokenizer != last.fingerprint.tokenizer:
            raise CheckpointError(
                f"{str(other.path)!r} and {str(last.path)!r} have different configs or tokenizers; "
                "only checkpoints of one training run can be averaged"
            )
    states = [each.model.state_dict() for each in (*others, last)]
    means = {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(weights.dtype)
        for name, weights in states[-1].items()
    }
    last.model.load_state_dict(means)


def main(argv: Sequence[str] | None = None) -> int:
    """Strip a checkpoint; 0 when the file is written, 2 with one line on stderr when it is not."""
    name = "niels_gpt.train.strip_checkpoint"
    return program.run(name, lambda: _strip(argv), failed=2, expected=lambda: (ValueError,))


def _strip(argv: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m niels_gpt.train.strip_checkpoint",
        description="Strip a checkpoint of its optimizer; several of one run are averaged.",
    )
    parser.add_argument(
        "--ckpt",
        type=Path,
        nargs="+",
        required=True,
        metavar="PATH",
        help="checkpoints that training wrote, the last one last",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="PATH", help="file to write")
    parser.add_argument("--bfloat16", action="store_true", help="round the weights, for half the size")
    parser.add_argument(
        "--card", type=Path, metavar="PATH", help="JSON to write: steps, losses, settings and digests"
    )
    args = parser.parse_args(argv)
    digest = strip_checkpoint(args.ckpt, args.out, card=args.card, bfloat16=args.bfloat16)
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB, weights {digest}")
    return 0


if __name__ == "__main__":
    program.run_process(main)
