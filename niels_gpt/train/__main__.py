"""The command `python -m niels_gpt.train`: errors on one line, Ctrl-C that loses nothing."""

from __future__ import annotations

import math
import os
import shlex
import signal
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from niels_gpt import program
from niels_gpt.train.options import TrainOptions, parse_options

if TYPE_CHECKING:
    from niels_gpt.train.loop import Observer, Outcome, Run

TORCH_ENVIRONMENT = {
    # Threads that sleep at a barrier instead of spinning: beside other work on the same cores, two spinning
    # threads can fall from 13,000 tokens/s to 700.
    "OMP_WAIT_POLICY": "passive",
    # Every new shape of a bfloat16 product leaves a kernel in two caches of 1,024 places each, and batches
    # have many shapes: memory grew beyond 5 GB. With 64 places it stays at 1.3 GB, at the same speed.
    "LRU_CACHE_CAPACITY": "64",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
    # What cuBLAS needs to give the same bits each time.
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}
"""Read once, when torch is imported; what the user has set stays."""


def main(argv: Sequence[str] | None = None) -> int:
    """Train; 0 at the end, 2 with one line on stderr if it fails, 128 + the signal's number if stopped."""
    return program.run("niels_gpt.train", lambda: _train(argv), failed=2, expected=lambda: (ValueError,))


def _train(argv: Sequence[str] | None) -> int:
    options = parse_options(argv)
    for name, value in TORCH_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from niels_gpt.train.build import assemble  # noqa: PLC0415 - torch, after the flags are known to be good
    from niels_gpt.train.distributed import leave  # noqa: PLC0415 - the same

    try:
        return _run(assemble(options, note=_say), options)
    finally:
        leave()


def _run(run: Run, options: TrainOptions) -> int:
    from niels_gpt.train.loop import train  # noqa: PLC0415 - see main
    from niels_gpt.train.metrics import MetricsLog, Several, open_tensorboard  # noqa: PLC0415 - see main
    from niels_gpt.train.progress import open_progress  # noqa: PLC0415 - see main

    cfg, first = run.train_cfg, run.start.step
    with _StopRequest() as stop:
        with open_progress(
            total_steps=cfg.total_steps, start_step=first, log_every=cfg.log_every, silent=not run.world.leads
        ) as progress:
            observers: list[Observer] = [progress]
            if run.world.leads:
                observers.append(MetricsLog(run.out, log_every=cfg.log_every, start_step=first))
            if run.world.leads and options.tensorboard:
                observers.append(open_tensorboard(run.out, start_step=first))
            outcome = train(run, Several(observers), should_stop=lambda: stop.signal_number is not None)
        latest = run.out / "latest.pt"
        if run.world.leads:
            _say_outcome(outcome, options, latest)
        run.world.wait()
        return 128 + (stop.signal_number or signal.SIGINT) if outcome.stopped else 0


def _say_outcome(outcome: Outcome, options: TrainOptions, latest: Path) -> None:
    if outcome.stopped:
        _say(f"stopped after step {outcome.step}; go on with")
        _say(f"  python -m niels_gpt.train {_resume_flags(options, latest)}")
        return
    loss = outcome.best_val_loss
    best = f"; best held-out loss {loss:.4f} in {latest.with_name('best.pt')}" if math.isfinite(loss) else ""
    _say(f"done: {outcome.step} steps, {latest}{best}")


def _resume_flags(options: TrainOptions, latest: Path) -> str:
    flags = {"config": options.config, "device": options.device, "resume": latest, "out": options.out}
    flags |= {"steps": options.steps, "threads": options.threads}
    parts = [part for name, value in flags.items() if value for part in (f"--{name}", str(value))]
    return shlex.join([*parts, *(["--tensorboard"] if options.tensorboard else [])])


class _StopRequest:
    """Turns the first Ctrl-C or SIGTERM into a wish, so that no step is cut in half; a second interrupts."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> _StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType] # what signal() gave back

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.signal_number is not None:
            raise KeyboardInterrupt
        self.signal_number = number


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    program.run_process(main)
