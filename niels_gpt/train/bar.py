"""The progress bar of a run in a terminal, by rich (extra `train`).

The only module that imports rich.
"""

from __future__ import annotations

from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as RichBar

from niels_gpt.train.loop import EvalReport, StepReport
from niels_gpt.train.progress import evaluation_lines, pace

LOSS_MEMORY = 0.95  # share of the shown loss that survives one step: single batches jump too much to read


class BarProgress:
    """A bar with loss, learning rate, tokens/s and time left; evaluations scroll above it."""

    def __init__(self, *, total_steps: int, start_step: int, stream: TextIO) -> None:
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

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self._bar.console.print(text, markup=False, highlight=False)

    def stepped(self, report: StepReport) -> None:
        """Move the bar."""
        last = report.loss if self._loss is None else self._loss
        self._loss = LOSS_MEMORY * last + (1 - LOSS_MEMORY) * report.loss
        self._bar.update(self._task, completed=report.step, status=f"loss {self._loss:.4f}  {pace(report)}")

    def evaluated(self, report: EvalReport) -> None:
        """Print the held-out loss and the sample reply above the bar."""
        for line in evaluation_lines(report):
            self.note(line)
