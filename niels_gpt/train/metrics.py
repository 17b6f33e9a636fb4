"""Write the measurements of a run: JSON lines in metrics.jsonl, and TensorBoard files on request.

A resumed run continues the same file, without the lines of steps that it repeats.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from niels_gpt.atomic_io import write_text
from niels_gpt.train.errors import TrainingError
from niels_gpt.train.loop import EvalReport, Observer, StepReport

METRICS_FILE = "metrics.jsonl"


class Observers:
    """Pass reports to several observers; one that cannot write does not end the run."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers
        self.error: OSError | None = None
        """The first error of an observer: a full disk, a pipe without a reader, a terminal that is gone."""

    def stepped(self, report: StepReport) -> None:
        """Pass on the report of a step."""
        for observer in self._observers:
            self._guarded(lambda observer=observer: observer.stepped(report))

    def evaluated(self, report: EvalReport) -> None:
        """Pass on the report of an evaluation."""
        for observer in self._observers:
            self._guarded(lambda observer=observer: observer.evaluated(report))

    def _guarded(self, call: Callable[[], None]) -> None:
        try:
            call()
        except OSError as error:
            self.error = self.error or error


class MetricsLog:
    """Append the mean loss every `log_every` steps, and each evaluation, to `metrics.jsonl` in a folder."""

    def __init__(self, folder: Path, *, log_every: int, start_step: int) -> None:
        """Keep the lines up to `start_step`; a run from step 0 starts with an empty file."""
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / METRICS_FILE
        self._log_every = log_every
        self._losses: list[float] = []
        kept = [line for line in read_metrics(self._path) if line["step"] <= start_step]
        write_text(self._path, "".join(map(_line, kept if start_step else [])))

    def stepped(self, report: StepReport) -> None:
        """Write a line every `log_every` steps and at the end."""
        self._losses.append(report.loss)
        if report.step % self._log_every == 0 or report.step == report.total_steps:
            loss = sum(self._losses) / len(self._losses)
            self._losses.clear()
            self._append(
                {
                    "step": report.step,
                    "loss": loss,
                    "lr": report.lr,
                    "tokens_per_second": round(report.tokens_per_second, 1),
                }
            )

    def evaluated(self, report: EvalReport) -> None:
        """Write a line."""
        self._append(
            {
                "step": report.step,
                "val_loss": report.val_loss,
                "val": report.losses,
                "best": report.is_best,
                "sample": report.sample,
            }
        )

    def _append(self, values: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line(values))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file. A line that a crash cut off is skipped; a missing file has none."""
    if not path.is_file():
        return []
    found: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict) and isinstance(value.get("step"), int):
            found.append(value)
    return found


def open_tensorboard(folder: Path, *, start_step: int) -> Observer:
    """Return an observer that writes event files; TrainingError where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - an extra, and seconds to import
    except ImportError as error:
        raise TrainingError("--tensorboard needs the extra: pip install 'niels-gpt[tensorboard]'") from error
    return TensorBoardLog(SummaryWriter(str(folder / "tensorboard"), purge_step=start_step + 1))


class TensorBoardLog:
    """Write loss, learning rate and pace of every step, and each evaluation, as TensorBoard events."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def stepped(self, report: StepReport) -> None:
        """Write the scalars of a step."""
        self._writer.add_scalar("loss/train", report.loss, report.step)
        self._writer.add_scalar("lr", report.lr, report.step)
        self._writer.add_scalar("tokens_per_second", report.tokens_per_second, report.step)

    def evaluated(self, report: EvalReport) -> None:
        """Write held-out losses and the sample, and flush them to the disk."""
        for name, loss in (report.losses or {"held-out": report.val_loss}).items():
            self._writer.add_scalar(f"loss/{name}", loss, report.step)
        if report.sample:
            self._writer.add_text("sample", report.sample, report.step)
        self._writer.flush()


def _line(values: dict[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False) + "\n"
