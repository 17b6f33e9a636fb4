"""Measure the quality of integer weights: compare their logits with those of the float32 weights.

    python -m bench.quality --model PATH [--weights stored] [--tokens 2000] [--window 256]

Reads varied text (this repository's pages and sources) in windows, once with the weights in the form that the
kernels use and once dequantised to float32, both by the kernels. Prints how often both prefer the same token,
the mean Kullback-Leibler divergence in nats, and both losses. Exit status 1 if the same token is preferred in
less than 96% of the positions, the mean divergence is above 0.004, or the losses are more than 0.1% apart.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from niels_gpt.kernels.fp_env import ieee_arithmetic
from niels_gpt.kernels.gpt import forward
from niels_gpt.kernels.gpt_layout import Rows
from niels_gpt.kernels.gpt_packing import PackedModel, pack_form
from niels_gpt.kernels.processor import aligned
from niels_gpt.model.loading import LoadedModel, load_model
from niels_gpt.paths import REPO_ROOT

LEAST_SAME, MOST_DIVERGENCE, MOST_LOSS = 0.96, 0.004, 0.001
TEXTS = (
    "README.md",
    "docs/arithmetic.md",
    "niels_gpt/kernels/gpt.py",
    "docs/architecture.md",
)


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What is compared, over all positions."""

    same: float
    """Share of positions with the same likeliest token."""
    divergence: float
    loss: float
    exact_loss: float

    @property
    def good(self) -> bool:
        """Whether all bounds hold."""
        near = abs(self.loss / self.exact_loss - 1) <= MOST_LOSS
        return self.same >= LEAST_SAME and self.divergence <= MOST_DIVERGENCE and near


def windows(loaded: LoadedModel, *, tokens: int, window: int) -> Iterator[list[int]]:
    """Windows of ids, in turns from each text, with `tokens` ids in all."""
    texts = [(REPO_ROOT / name).read_text(encoding="utf-8") for name in TEXTS]
    streams = [[int(one) for one in loaded.tokenizer.encode(text[: 40 * tokens])] for text in texts]
    taken, turn = 0, 0
    while taken < tokens:
        stream = streams[turn % len(streams)]
        first = turn // len(streams) * window
        ids = stream[first : first + window]
        if len(ids) < 2:
            raise ValueError(f"the texts have fewer than {tokens} tokens; give fewer --tokens")
        yield ids
        taken, turn = taken + len(ids), turn + 1


def log_shares(packed: PackedModel, ids: Sequence[int]) -> np.ndarray:
    """(t, V) float64: log-probabilities after each token."""
    count = len(ids)
    state, room = packed.new_state(count)
    memory = packed.new_memory(rows=count, room=room, parts=1)
    rows = Rows(
        np.array(ids, np.int64), np.arange(count), np.full(count, state.ctypes.data), np.full(count, room)
    )
    logits = aligned(count * packed.shape.head_row).reshape(count, -1)
    with ieee_arithmetic():
        forward(packed.shape, packed.weights, memory.work, rows, np.arange(count), logits.ctypes.data, 0, 1)
    rows64 = logits[:, : packed.shape.V].astype(np.float64)
    rows64 -= rows64.max(1, keepdims=True)
    return rows64 - np.log(np.exp(rows64).sum(1, keepdims=True))


def compare(packed: PackedModel, exact: PackedModel, texts: Iterator[list[int]]) -> Quality:
    """Measure over all windows."""
    same, divergences, losses, exact_losses = [], [], [], []
    for ids in texts:
        found, wanted = log_shares(packed, ids), log_shares(exact, ids)
        same.append(found.argmax(1) == wanted.argmax(1))
        divergences.append((np.exp(wanted) * (wanted - found)).sum(1))
        following = np.arange(len(ids) - 1), ids[1:]
        losses.append(-found[following])
        exact_losses.append(-wanted[following])
    each = [float(np.concatenate(values).mean()) for values in (same, divergences, losses, exact_losses)]
    return Quality(same=each[0], divergence=each[1], loss=each[2], exact_loss=each[3])


def main(argv: Sequence[str] | None = None) -> int:
    """Compare and print; 0 if all bounds hold."""
    parser = argparse.ArgumentParser(prog="bench.quality", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--weights", choices=("stored", "int8", "q8", "q4"), default="stored")
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--window", type=int, default=256)
    options = parser.parse_args(argv)
    loaded = load_model(options.model)
    packed = pack_form(loaded.form, loaded.weights, options.weights)
    exact = pack_form(loaded.form, loaded.weights, "float32")
    found = compare(packed, exact, windows(loaded, tokens=options.tokens, window=options.window))
    print(
        f"{options.tokens} tokens, {options.weights} compared with float32: "
        f"same token preferred {found.same:.2%}, mean divergence {found.divergence:.5f} nats, "
        f"loss {found.loss:.5f} instead of {found.exact_loss:.5f}"
    )
    return int(not found.good)


if __name__ == "__main__":
    sys.exit(main())
