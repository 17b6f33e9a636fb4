"""What a person sees of a run: a bar in a terminal, plain lines everywhere else."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Protocol, Self, TextIO

from niels_gpt.train.loop import EvalReport, Observer, StepReport


class Progress(Observer, Protocol):
    """An observer that holds the terminal while it is open."""

    def note(self, text: str) -> None:
        """Show one line of its own."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...


class SilentProgress:
    """Says nothing: of several processes, one speaks."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def note(self, text: str) -> None:
        """Say nothing."""

    def stepped(self, report: StepReport) -> None:
        """Say nothing."""

    def evaluated(self, report: EvalReport) -> None:
        """Say nothing."""


class LineProgress:
    """One plain line every `log_every` steps and for each evaluation: for files and pipes."""

    def __init__(self, *, log_every: int, stream: TextIO) -> None:
        self._log_every = log_every
        self._stream = stream
        self._losses: list[float] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def note(self, text: str) -> None:
        """Write a line at once."""
        print(text, file=self._stream, flush=True)

    def stepped(self, report: StepReport) -> None:
        """Write the mean loss since the last line, at every `log_every` steps and at the end."""
        self._losses.append(report.loss)
        if report.step % self._log_every == 0 or report.step == report.total_steps:
            loss = sum(self._losses) / len(self._losses)
            self._losses.clear()
            self.note(f"step {report.step}/{report.total_steps}  loss {loss:.4f}  {pace(report)}")

    def evaluated(self, report: EvalReport) -> None:
        """Write the held-out loss and the sample reply."""
        for line in evaluation_lines(report):
            self.note(line)


def pace(report: StepReport) -> str:
    """Return the learning rate, tokens/s and time left of a step, as a person reads them."""
    left = clock(report.seconds_left)
    return f"lr {report.lr:.2e}  {report.tokens_per_second:,.0f} tokens/s  {left} left"


def evaluation_lines(report: EvalReport) -> list[str]:
    """Return what is shown of an evaluation."""
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
    """Return a bar if `stream` (stdout unless given) is a terminal and rich is there, else plain lines."""
    if silent:
        return SilentProgress()
    out = sys.stdout if stream is None else stream
    lines = LineProgress(log_every=log_every, stream=out)
    if not out.isatty():
        return lines
    try:
        from niels_gpt.train.bar import BarProgress  # noqa: PLC0415 - rich is an extra
    except ImportError:
        lines.note("plain lines, because rich is not installed; for a bar: pip install 'niels-gpt[train]'")
        return lines
    return BarProgress(total_steps=total_steps, start_step=start_step, stream=out)
