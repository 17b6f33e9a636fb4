"""Measure the time of a step, kernel by kernel, next to the whole step.

    python -m bench.step [--models 3.2M,27M] [--streams 1,32] [--weights float32|int8] [--repetitions 15]

One thread. The kernels are timed inside of whole steps over all layers' weights (`bench.stamped`), at the
position in the middle of the replies that the whole step is measured on: 64 tokens after a prompt of 64, with
the settings that a chat has. What the kernels do not account for is the decoder's work in Python: text,
hashes, arrays. Both take turns, and every number is the median of its turns. Exit status 1 if the stamped
step gives other bits than the kernels' own, so that its times would be those of something else.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench import measure
from bench.kernel_candidate import KernelCandidate
from bench.models import SHAPES, random_model, random_prompts
from bench.stamped import PARTS, Clock, Draws, stamped_steps
from niels_gpt.kernels.gpt import forward
from niels_gpt.kernels.gpt_layout import Rows
from niels_gpt.kernels.gpt_packing import PackedModel, StepMemory, new_state
from niels_gpt.kernels.slots import new_scratch, new_settings, set_slot
from niels_gpt.model.config import ModelConfig
from niels_gpt.sampling import Sampling

PROMPT, TOKENS = 64, 64


@dataclass(frozen=True, kw_only=True)
class Times:
    """Seconds of one step: by part, and of a whole one."""

    parts: tuple[float, ...]
    whole: float


class Steps:
    """Decode steps of a number of streams, all at one position, over states that hold noise."""

    def __init__(self, packed: PackedModel, *, streams: int, position: int, room: int) -> None:
        shape, noise = packed.shape, np.random.default_rng(0)
        self._packed = packed
        self._states = [new_state(shape, room) for _ in range(streams)]
        for state, _ in self._states:
            state[:] = noise.standard_normal(state.size, np.float32)
        self._memory = StepMemory(shape, rows=streams, room=self._states[0][1], parts=1)
        self._rows = Rows(
            ids=noise.integers(0, shape.V, streams),
            positions=np.full(streams, position),
            states=np.array([state.ctypes.data for state, _ in self._states]),
            rooms=np.array([room for _, room in self._states]),
        )
        self._logits = np.zeros((streams, shape.head_row), np.float32)
        self._draws = _draws(Sampling(), streams, shape.V, shape.head_row, noise.random(streams))

    def same_bits(self) -> bool:
        """Whether the stamped step computes what the kernels compute."""
        packed, expected = self._packed, np.zeros_like(self._logits)
        forward(
            packed.shape, packed.weights, self._memory.work, self._rows, np.arange(len(expected)),
            expected.ctypes.data, 0, 1,
        )  # fmt: skip
        self.by_part(1)
        return self._logits.tobytes() == expected.tobytes()

    def by_part(self, steps: int) -> list[float]:
        """Seconds of each part in one step, over as many steps."""
        clock = Clock(np.zeros(2, np.int64), np.zeros(len(PARTS), np.int64))
        packed = self._packed
        stamped_steps(
            packed.shape, packed.weights, self._memory.work, self._rows, np.arange(len(self._logits)),
            self._draws, self._logits, clock, steps,
        )  # fmt: skip
        return (clock.spent / (1e9 * steps)).tolist()


def _draws(sampling: Sampling, streams: int, V: int, width: int, uniforms: np.ndarray) -> Draws:
    settings = new_settings(streams)
    for stream in range(streams):
        set_slot(settings, stream, sampling)
    nothing = np.zeros((streams, V), np.bool_)
    return Draws(
        uniforms=uniforms, seen=nothing, banned=nothing, settings=settings, scratch=new_scratch(V, width),
        ids=np.zeros(streams, np.int64),
    )  # fmt: skip


def measure_step(candidate: KernelCandidate, cfg: ModelConfig, *, streams: int, turns: int) -> Times | None:
    """The medians of all turns; None if the stamped step is not the kernels' step."""
    prompts = random_prompts(cfg, streams=streams, length=PROMPT)
    steps = Steps(candidate.packed, streams=streams, position=PROMPT + TOKENS // 2, room=PROMPT + TOKENS + 1)
    if not steps.same_bits():
        return None
    wholes, parts = [], []
    for _ in range(turns + 1):
        wholes.append(candidate.decode(prompts, TOKENS + 1) / TOKENS)
        parts.append(steps.by_part(TOKENS))
    # The first turn fills the caches.
    return Times(
        parts=tuple(statistics.median(part) for part in zip(*parts[1:], strict=True)),
        whole=statistics.median(wholes[1:]),
    )


def step_table(times: Mapping[int, Times]) -> str:
    """Microseconds and shares by part, for each number of streams."""

    def row(name: str, seconds: Sequence[float]) -> list[str]:
        cells = [name]
        for part, whole in zip(seconds, times.values(), strict=True):
            cells += [f"{1e6 * part:,.1f}", f"{part / whole.whole:.1%}"]
        return cells

    rows = [row(name, [found.parts[i] for found in times.values()]) for i, name in enumerate(PARTS)]
    sums = [sum(found.parts) for found in times.values()]
    rows += [
        row("all kernels", sums),
        row("the rest, in Python", [t.whole - s for t, s in zip(times.values(), sums, strict=True)]),
        row("a whole step", [found.whole for found in times.values()]),
    ]
    header = ["one thread"]
    for streams in times:
        header += [f"{measure.plural(streams, 'stream')}, µs", "share"]
    return measure.table(header, rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if the stamped step is out of date."""
    parser = argparse.ArgumentParser(prog="bench.step", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", default="3.2M,27M", help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--streams", default="1,32")
    parser.add_argument("--weights", choices=("float32", "int8"), default="float32")
    parser.add_argument("--repetitions", type=int, default=15)
    options = parser.parse_args(argv)
    about = measure.facts() | {"weights": options.weights, "load before": measure.load()}
    for name in options.models.split(","):
        cfg, times = SHAPES[name], {}
        candidate = KernelCandidate(random_model(cfg), threads=1, form=options.weights, sampling=Sampling())
        for streams in map(int, options.streams.split(",")):
            found = measure_step(candidate, cfg, streams=streams, turns=options.repetitions)
            if found is None:
                print("bench/stamped.py gives other bits than niels_gpt/kernels/gpt.py: bring it up to date")
                return 1
            times[streams] = found
        print(f"\n## {name}\n\n{step_table(times)}\n", flush=True)
    about["load after"] = measure.load()
    print("\n".join(f"{name}: {value}" for name, value in about.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
