from __future__ import annotations

import io

import pytest

from niels_gpt.train.loop import EvalReport, StepReport
from niels_gpt.train.progress import LineProgress, clock, open_progress


class Terminal(io.StringIO):
    """A stream that says that a person is looking."""

    def isatty(self) -> bool:
        return True


def step(number: int, loss: float) -> StepReport:
    return StepReport(
        step=number, total_steps=10, loss=loss, lr=1e-3, tokens_per_second=12345.6, seconds_left=75.2
    )


def test_a_line_shows_the_mean_loss_since_the_last_one() -> None:
    stream = io.StringIO()
    lines = LineProgress(log_every=2, stream=stream)
    for report in (step(1, 4.0), step(2, 2.0), step(3, 9.0)):
        lines.stepped(report)
    assert stream.getvalue() == "step 2/10  loss 3.0000  lr 1.00e-03  12,346 tokens/s  1:15 left\n"


def test_an_evaluation_shows_its_loss_and_what_the_model_says() -> None:
    stream = io.StringIO()
    report = EvalReport(step=4, val_loss=1.5, is_best=True, sample="hello? -> hi")
    LineProgress(log_every=2, stream=stream).evaluated(report)
    assert stream.getvalue() == "step 4: held-out loss 1.5000 (best so far)\n  hello? -> hi\n"


def test_a_file_gets_plain_lines() -> None:
    assert isinstance(
        open_progress(total_steps=10, start_step=0, log_every=2, stream=io.StringIO()), LineProgress
    )


def test_a_terminal_gets_a_bar_with_the_same_figures() -> None:
    pytest.importorskip("rich")
    stream = Terminal()
    with open_progress(total_steps=10, start_step=0, log_every=2, stream=stream) as bar:
        bar.stepped(step(3, 2.5))
        bar.evaluated(EvalReport(step=3, val_loss=1.5, is_best=False, sample="[bold] -> hi"))
    shown = stream.getvalue()
    assert "3/10" in shown
    assert "loss 2.5000" in shown
    assert "[bold] -> hi" in shown


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (61.0, "1:01"), (3725.0, "1:02:05")])
def test_durations_read_as_clocks(seconds: float, text: str) -> None:
    assert clock(seconds) == text
