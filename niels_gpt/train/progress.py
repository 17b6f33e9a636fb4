"""Show the progress of a run: a bar in a terminal (rich, extra `train`), plain lines everywhere else."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Protocol, Self, TextIO

from niels_gpt.train.loop import EvalReport, Observer, StepReport

LOSS_MEMORY = 0.95  # share of the shown loss that survives one step: single batches vary too much to read


class Progress(Observer, Protocol):
    """An observer that controls the terminal while it is open."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...


class SilentProgress:
    """Print nothing; for all processes but the main one."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def stepped(self, report: StepReport) -> None:
        """Ignore the report."""

    def evaluated(self, report: EvalReport) -> None:
        """Ignore the report."""


class LineProgress:
    """Print one line every `log_every` steps and for each evaluation: for files and pipes."""

    def __init__(self, *, log_every: int, stream: TextIO) -> None:
        self._log_every = log_every
        self._stream = stream
        self._losses: list[float] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def note(self, text: str) -> None:
        """Print a line at once."""
        print(text, file=self._stream, flush=True)

    def stepped(self, report: StepReport) -> None:
        """Print the mean loss since the last line, every `log_every` steps and at the end."""
        self._losses.append(report.loss)
        if report.step % self._log_every == 0 or report.step == report.total_steps:
            loss = sum(self._losses) / len(self._losses)
            self._losses.clear()
            self.note(f"step {report.step}/{report.total_steps}  loss {loss:.4f}  {pace(report)}")

    def evaluated(self, report: EvalReport) -> None:
        """Print the held-out loss and the sample reply."""
        for line in evaluation_lines(report):
            self.note(line)


class BarProgress:
    """Show a bar with loss, learning rate, tokens/s and time left; evaluations scroll above it."""

    def __init__(self, *, total_steps: int, start_step: int, stream: TextIO) -> None:
        """Raise ImportError where rich is not installed."""
        from rich.console import Console  # noqa: PLC0415 - an extra
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn  # noqa: PLC0415 - an extra
        from rich.progress import Progress as RichBar  # noqa: PLC0415 - an extra

        self._bar = RichBar(
            TextColumn("training"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            console=Console(file=stream, highlight=False),
            expand=True,
        )
        self._task = self._bar.add_task("training", total=total_steps, completed=start_step, status="")
        self._loss: float | None = None

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def stepped(self, report: StepReport) -> None:
        """Advance the bar."""
        last = report.loss if self._loss is None else self._loss
        self._loss = LOSS_MEMORY * last + (1 - LOSS_MEMORY) * report.loss
        self._bar.update(self._task, completed=report.step, status=f"loss {self._loss:.4f}  {pace(report)}")

    def evaluated(self, report: EvalReport) -> None:
        """Print the held-out loss and the sample reply above the bar."""
        for line in evaluation_lines(report):
            self._bar.console.print(line, markup=False, highlight=False)


def pace(report: StepReport) -> str:
    """Return the learning rate, tokens/s and time left of a step as text."""
    left = clock(report.seconds_left)
    return f"lr {report.lr:.2e}  {report.tokens_per_second:,.0f} tokens/s  {left} left"


def evaluation_lines(report: EvalReport) -> list[str]:
    """Return an evaluation as lines of text."""
    best = " (best so far)" if report.is_best else ""
    others = [f"{name} {loss:.4f}" for name, loss in list(report.losses.items())[1:]]
    also = f"  {'  '.join(others)}" if others else ""
    lines = [f"step {report.step}: held-out loss {report.val_loss:.4f}{best}{also}"]
    return [*lines, f"  {report.sample}"] if report.sample else lines


def clock(seconds: float) -> str:
    """Return a duration as h:mm:ss or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def open_progress(
    *, total_steps: int, start_step: int, log_every: int, stream: TextIO | None = None, silent: bool = False
) -> Progress:
    """Return a bar if `stream` (default: stdout) is a terminal and rich is installed, else plain lines."""
    if silent:
        return SilentProgress()
    out = sys.stdout if stream is None else stream
    lines = LineProgress(log_every=log_every, stream=out)
    if not out.isatty():
        return lines
    try:
        return BarProgress(total_steps=total_steps, start_step=start_step, stream=out)
    except ImportError:
        lines.note("plain lines, because rich is not installed; for a bar: pip install 'niels-gpt[train]'")
        return lines
