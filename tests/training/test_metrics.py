from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from niels_gpt.train.loop import EvalReport, StepReport
from niels_gpt.train.metrics import METRICS_FILE, MetricsLog, Observers, TensorBoardLog, read_metrics

from .conftest import Recorder


def step(number: int, loss: float, *, total: int = 5) -> StepReport:
    return StepReport(
        step=number, total_steps=total, loss=loss, lr=1e-3, tokens_per_second=1234.56, seconds_left=1.0
    )


EVALUATION = EvalReport(
    step=4, val_loss=1.5, losses={"wiki": 1.5, "roam": 2.0}, is_best=True, sample="q -> a"
)


@dataclass
class FakeWriter:
    scalars: list[tuple[str, float, int]] = field(default_factory=list)
    texts: list[tuple[str, str, int]] = field(default_factory=list)
    flushed: int = 0

    def add_scalar(self, name: str, value: float, number: int) -> None:
        self.scalars.append((name, value, number))

    def add_text(self, name: str, text: str, number: int) -> None:
        self.texts.append((name, text, number))

    def flush(self) -> None:
        self.flushed += 1


def logged(folder: Path, *reports: StepReport, start_step: int = 0) -> MetricsLog:
    log = MetricsLog(folder, log_every=2, start_step=start_step)
    for report in reports:
        log.stepped(report)
    return log


def test_a_line_holds_the_mean_loss_since_the_last_one(tmp_path: Path) -> None:
    logged(tmp_path, *(step(n, float(n)) for n in range(1, 6)))
    lines = read_metrics(tmp_path / METRICS_FILE)
    assert [(line["step"], line["loss"]) for line in lines] == [(2, 1.5), (4, 3.5), (5, 5.0)]
    assert lines[0] | {"loss": 0} == {"step": 2, "loss": 0, "lr": 1e-3, "tokens_per_second": 1234.6}


def test_an_evaluation_is_a_line_with_every_source(tmp_path: Path) -> None:
    logged(tmp_path).evaluated(EVALUATION)
    (line,) = read_metrics(tmp_path / METRICS_FILE)
    val = {"wiki": 1.5, "roam": 2.0}
    assert line == {"step": 4, "val_loss": 1.5, "val": val, "best": True, "sample": "q -> a"}


def test_a_resumed_run_forgets_the_steps_that_it_does_again(tmp_path: Path) -> None:
    logged(tmp_path, *(step(n, 9.0) for n in range(1, 6)))
    logged(tmp_path, step(3, 1.0), step(4, 1.0), start_step=2)
    assert [line["loss"] for line in read_metrics(tmp_path / METRICS_FILE)] == [9.0, 1.0]


def test_a_new_run_begins_a_new_file(tmp_path: Path) -> None:
    logged(tmp_path, step(1, 9.0), step(2, 9.0))
    logged(tmp_path)
    assert read_metrics(tmp_path / METRICS_FILE) == []


def test_event_files_hold_what_the_lines_do() -> None:
    writer = FakeWriter()
    log = TensorBoardLog(writer)
    log.stepped(step(1, 2.5))
    log.evaluated(EVALUATION)
    assert writer.scalars == [
        ("loss/train", 2.5, 1), ("lr", 1e-3, 1), ("tokens_per_second", 1234.56, 1),
        ("loss/wiki", 1.5, 4), ("loss/roam", 2.0, 4),
    ]  # fmt: skip
    assert (writer.texts, writer.flushed) == ([("sample", "q -> a", 4)], 1)


def test_several_observers_hear_the_same() -> None:
    first, second = Recorder(), Recorder()
    both = Observers([first, second])
    both.stepped(step(1, 1.0))
    both.evaluated(EVALUATION)
    assert first == second
    assert (len(first.steps), len(first.evaluations)) == (1, 1)
