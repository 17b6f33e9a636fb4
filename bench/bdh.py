"""What a BDH's constant state costs and saves: bytes of a sequence and time of its next token, by its length.

Three ways to the next token: from the state (kernels), a GPT of about as many parameters from its keys and
values (kernels), and the BDH's full recompute (torch), as far as it takes bearable time. With `--plot` as a
picture too.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from bench.measure import facts, table
from niels_gpt.kernels.bdh_packing import PackedBDH, pack_bdh
from niels_gpt.kernels.build import FORWARDS
from niels_gpt.kernels.gpt_layout import Rows
from niels_gpt.kernels.gpt_packing import PackedModel, pack_gpt
from niels_gpt.model.bdh import BDH, BDHConfig
from niels_gpt.model.config import ModelConfig
from niels_gpt.model.gpt import GPT

LENGTHS = (16, 64, 256, 1024, 4096, 16384)
RECOMPUTED = 2048  # beyond, one token of the full recompute takes seconds
CHUNK = 64
SIZES = BDHConfig(n_layer=4, n_embd=128, n_head=4, mlp_internal_dim_multiplier=32)


@dataclass
class Series:
    """One way, by length."""

    name: str
    microseconds: dict[int, float] = field(default_factory=dict)
    bytes: dict[int, int] = field(default_factory=dict)


class Reader:
    """One sequence that is read on and on."""

    def __init__(self, packed: PackedModel | PackedBDH, longest: int) -> None:
        self._packed = packed
        self._state, self._room = packed.new_state(longest)
        self._memory = packed.new_memory(rows=CHUNK, room=longest, parts=1)
        self._logits = np.zeros((1, packed.shape.head_row), np.float32)
        self._at = 0

    def read(self, count: int) -> None:
        """Read as many tokens, whichever, as one chunk."""
        ids = np.arange(self._at, self._at + count) % self._packed.shape.V
        places = np.arange(self._at, self._at + count)
        rows = Rows(ids, places, np.full(count, self._state.ctypes.data), np.full(count, self._room))
        FORWARDS[self._packed.arch](
            self._packed.shape, self._packed.weights, self._memory.work, rows, np.array([count - 1]),
            self._logits.ctypes.data, 0, 1,
        )  # fmt: skip
        self._at += count

    def up_to(self, length: int) -> None:
        """Read until the sequence has so many tokens."""
        while self._at < length:
            self.read(min(CHUNK, length - self._at))


def timed(work: Callable[[], object], repetitions: int) -> float:
    """The median of some runs, in microseconds."""
    spent = []
    for _ in range(repetitions):
        began = time.perf_counter()
        work()
        spent.append(time.perf_counter() - began)
    return 1e6 * statistics.median(spent)


def stepped(name: str, packed: PackedModel | PackedBDH, lengths: Sequence[int], repetitions: int) -> Series:
    """The time of a token after each length, from what is kept of the tokens before."""
    series, reader = Series(name), Reader(packed, lengths[-1] + len(lengths) * repetitions + CHUNK)
    reader.read(1)  # compiled by now
    for length in lengths:
        reader.up_to(length)
        series.microseconds[length] = timed(lambda: reader.read(1), repetitions)
        series.bytes[length] = packed.new_state(length)[0].nbytes
    return series


def recomputed(model: BDH, lengths: Sequence[int], repetitions: int) -> Series:
    """Measure the time of a token when all tokens are read again."""
    series = Series("BDH, full recompute (torch)")
    for length in lengths:
        ids = torch.arange(length)[None] % model.cfg.V
        with torch.inference_mode():
            series.microseconds[length] = timed(lambda ids=ids: model(ids), min(3, repetitions))
        series.bytes[length] = 0
    return series


def measure(config: BDHConfig, lengths: Sequence[int], repetitions: int) -> list[Series]:
    """All ways, for a BDH of these sizes and a GPT of about as many parameters."""
    torch.manual_seed(0)
    model = BDH(config).eval()
    count = sum(parameter.numel() for parameter in model.parameters())
    C, L = config.n_embd, config.n_layer
    d_ff = max(16, round((count / L - 4 * C * C) / (2 * C) / 16) * 16)
    longest = lengths[-1] + len(lengths) * repetitions + CHUNK
    twin = GPT(ModelConfig(V=config.vocab_size, T=longest, C=C, L=L, H=config.n_head, d_ff=d_ff)).eval()
    print(f"BDH {count:,} parameters, GPT {sum(p.numel() for p in twin.parameters()):,}\n")
    return [
        stepped("BDH, constant state", pack_bdh(model), lengths, repetitions),
        stepped("GPT, keys and values", pack_gpt(twin), lengths, repetitions),
        recomputed(model, [length for length in lengths if length <= RECOMPUTED], repetitions),
    ]


def shown(found: Sequence[Series]) -> str:
    """Markdown, a line a length."""
    header = ["tokens before", *(part for s in found for part in (f"{s.name}, µs", "KiB"))]
    rows = []
    for length in found[0].microseconds:
        cells = [f"{length:,}"]
        for series in found:
            spent, size = series.microseconds.get(length), series.bytes.get(length)
            cells += ["" if spent is None else f"{spent:,.0f}", f"{size / 1024:,.0f}" if size else ""]
        rows.append(cells)
    return table(header, rows)


def plot(found: Sequence[Series], path: Path) -> None:
    """Both sides as a picture (extra `train`)."""
    import matplotlib as mpl  # noqa: PLC0415 - an extra, and half a second

    mpl.use("Agg")
    mpl.rcParams.update({"svg.hashsalt": "niels-gpt", "svg.fonttype": "none"})
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after its backend was chosen

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
    for series in found:
        left.plot(*zip(*series.microseconds.items(), strict=True), marker="o", label=series.name)
        sizes = {length: size / 1024 for length, size in series.bytes.items() if size}
        if sizes:
            right.plot(*zip(*sizes.items(), strict=True), marker="o", label=series.name)
    for axes, title in ((left, "µs for the next token"), (right, "KiB kept of a sequence")):
        axes.set(xscale="log", yscale="log", xlabel="tokens before", title=title)
        axes.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.bdh", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the table (svg, png)")
    parser.add_argument("--repetitions", type=int, default=50)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    config, lengths = SIZES, LENGTHS
    if options.quick:
        config = BDHConfig(n_layer=1, n_embd=16, n_head=2, mlp_internal_dim_multiplier=4)
        lengths = (4, 8, 70)
    print("\n".join(f"{name}: {value}" for name, value in facts().items()))
    found = measure(config, lengths, 2 if options.quick else options.repetitions)
    print(shown(found))
    if options.plot is not None:
        plot(found, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
