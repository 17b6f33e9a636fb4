"""Run `python -m niels_gpt.train`: errors on one line, and a stop that saves first."""

from __future__ import annotations

import contextlib
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

_PROGRAM = "niels_gpt.train"
_FAILED = 2
TORCH_ENVIRONMENT = {
    # Threads that sleep at a barrier instead of spinning: next to other work on the same cores, two spinning
    # threads can fall from 13,000 tokens/s to 700.
    "OMP_WAIT_POLICY": "passive",
    # Every new shape of a bfloat16 product leaves a kernel in two caches of 1,024 places each, and batches
    # have many shapes: memory grew beyond 5 GB. With 64 places it stays at 1.3 GB, at the same speed.
    "LRU_CACHE_CAPACITY": "64",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
    # cuBLAS needs it to give the same bits each time.
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}
"""Read once, when torch is imported; values that the user has set are kept."""


def main(argv: Sequence[str] | None = None) -> int:
    """Train a model.

    Returns:
        0 at the end, 2 with one line on stderr for a run that cannot start or continue, 128 + signal for a
        run that a signal stopped, 141 for one whose standard output lost its reader.

    """
    return program.run(_PROGRAM, lambda: _train(argv), failed=_FAILED, expected=lambda: (ValueError,))


def _train(argv: Sequence[str] | None) -> int:
    options = parse_options(argv)
    for name, value in TORCH_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from niels_gpt.train.build import build_run  # noqa: PLC0415 - torch, after the flags are checked
    from niels_gpt.train.distributed import leave  # noqa: PLC0415 - the same

    try:
        return _run(build_run(options, note=_say), options)
    finally:
        leave()


def _run(run: Run, options: TrainOptions) -> int:
    from niels_gpt.train.loop import train  # noqa: PLC0415 - see main
    from niels_gpt.train.metrics import MetricsLog, Observers, open_tensorboard  # noqa: PLC0415 - see main
    from niels_gpt.train.progress import open_progress  # noqa: PLC0415 - see main

    cfg, first, is_main = run.train_cfg, run.start.step, run.world.is_main
    if first >= cfg.total_steps:
        if is_main:
            _say(
                f"nothing left to train: {options.resume} has {first} steps and the run ends after "
                f"{cfg.total_steps}; raise train.total_steps, or pass --steps"
            )
        return 0
    with _StopRequest() as stop:
        with open_progress(
            total_steps=cfg.total_steps, start_step=first, log_every=cfg.log_every, silent=not is_main
        ) as progress:
            observers: list[Observer] = [progress]
            if is_main:
                observers.append(MetricsLog(run.out, log_every=cfg.log_every, start_step=first))
            if is_main and options.tensorboard:
                observers.append(open_tensorboard(run.out, start_step=first))
            watched = Observers(observers)
            outcome = train(
                run, watched, should_stop=lambda: stop.signal_number is not None or watched.error is not None
            )
        if is_main:
            _say_outcome(outcome, options, run.out, watched.error)
        run.world.wait()
        if isinstance(watched.error, BrokenPipeError):
            return program.BROKEN_PIPE
        if watched.error is not None:
            return _FAILED
        return 128 + (stop.signal_number or signal.SIGINT) if outcome.stopped else 0


def _say_outcome(outcome: Outcome, options: TrainOptions, out: Path, error: OSError | None) -> None:
    latest, best = out / "latest.pt", out / "best.pt"
    stopped = f"stopped after step {outcome.step}; continue with"
    resume = f"python -m niels_gpt.train {_resume_flags(options, latest)}"
    if error is not None:
        reason = program.described(error)
        program.report(_PROGRAM, f"{reason}; {stopped}: {resume}")
    elif outcome.stopped:
        with contextlib.suppress(OSError):  # the terminal may be gone, which is why it stopped
            _say(stopped)
            _say(f"  {resume}")
    else:
        loss = outcome.best_val_loss
        where = f" in {best}" if best.exists() else f", of an earlier run: none was better in {out}"
        found = f"; best held-out loss {loss:.4f}{where}" if math.isfinite(loss) else ""
        _say(f"done: {outcome.step} steps, {latest}{found}")


def _resume_flags(options: TrainOptions, latest: Path) -> str:
    flags = {"config": options.config, "device": options.device, "resume": latest, "out": options.out}
    flags |= {"steps": options.steps, "threads": options.threads}
    parts = [part for name, value in flags.items() if value for part in (f"--{name}", str(value))]
    return shlex.join([*parts, *(["--tensorboard"] if options.tensorboard else [])])


class _StopRequest:
    """Record the first stop signal, so that no step is cut in half; a second one interrupts at once.

    The signals are Ctrl-C, SIGTERM and, unless it is ignored as under nohup, SIGHUP.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> _StopRequest:
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # not every system has all of them
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType] # what signal() returned

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.signal_number is not None:
            raise KeyboardInterrupt
        self.signal_number = number


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    program.run_process(main)
