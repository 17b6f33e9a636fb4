from __future__ import annotations

import io
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from niels_gpt.model.checkpoint import load_checkpoint
from niels_gpt.model.loading import load_model
from niels_gpt.train.__main__ import main
from niels_gpt.train.loop import StepReport
from niels_gpt.train.metrics import MetricsLog
from niels_gpt.train.progress import LineProgress

ConfigFile = Callable[..., Path]


def state(path: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(path, device="cpu")["model_state"]


def test_training_prints_its_progress_and_leaves_checkpoints_that_load(
    config_file: ConfigFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["--config", str(config_file()), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "step 2/4  loss" in printed
    assert "tokens/s" in printed
    assert "step 4: held-out loss" in printed
    assert "what is niels-gpt? ->" in printed
    loaded = load_model(out / "best.pt")
    assert loaded.tokenizer.vocab_size == loaded.cfg.V
    assert loaded.template.name == "role-tokens"


def test_a_run_resumed_by_the_command_ends_in_the_same_weights(
    config_file: ConfigFile, tmp_path: Path
) -> None:
    config = str(config_file())
    assert main(["--config", config, "--out", str(tmp_path / "whole")]) == 0
    half = tmp_path / "whole" / "step_000002.pt"
    assert main(["--config", config, "--resume", str(half), "--out", str(tmp_path / "resumed")]) == 0
    whole, resumed = state(tmp_path / "whole" / "latest.pt"), state(tmp_path / "resumed" / "latest.pt")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_ctrl_c_saves_and_says_how_to_resume(
    config_file: ConfigFile,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class InterruptingStdout:
        """Presses Ctrl-C when the line of step 2 appears."""

        def write(self, text: str) -> int:
            if text.startswith("step 2/4"):
                signal.raise_signal(signal.SIGINT)
            lines.append(text)
            return len(text)

        def flush(self) -> None: ...

        def isatty(self) -> bool:
            return False

    lines: list[str] = []
    monkeypatch.setattr("sys.stdout", InterruptingStdout())
    out, config = tmp_path / "out", str(config_file())
    assert main(["--config", config, "--out", str(out)]) == 130
    assert load_checkpoint(out / "latest.pt", device="cpu")["step"] == 2
    assert f"--config {config} --resume {out / 'latest.pt'} --out {out}\n" in "".join(lines)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


class BrokenStdout:
    """A standard output whose reader goes away, or whose disk is full, when the line of step 2 is written."""

    def __init__(self, error: OSError) -> None:
        self.error = error
        self.failed = False

    def write(self, text: str) -> int:
        if self.failed or text.startswith("step 2/"):
            self.failed = True
            raise self.error
        return len(text)

    def flush(self) -> None:
        if self.failed:
            raise self.error

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        raise io.UnsupportedOperation


@pytest.mark.parametrize(
    ("error", "status"),
    [(BrokenPipeError(32, "Broken pipe"), 141), (OSError(28, "No space left on device"), 2)],
)
def test_a_log_that_cannot_be_written_ends_the_run_after_it_is_saved(
    config_file: ConfigFile,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    error: OSError,
    status: int,
) -> None:
    out, config = tmp_path / "out", str(config_file())
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("sys.stdout", BrokenStdout(error))
        assert main(["--config", config, "--out", str(out)]) == status
    assert load_checkpoint(out / "latest.pt", device="cpu")["step"] == 2
    said = capsys.readouterr().err
    assert "stopped after step 2" in said
    assert f"--resume {out / 'latest.pt'}" in said


def test_metrics_that_cannot_be_written_end_the_run_after_it_is_saved(
    config_file: ConfigFile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(self: MetricsLog, values: object) -> None:
        raise OSError(28, "No space left on device", "metrics.jsonl")

    monkeypatch.setattr(MetricsLog, "_append", full)
    out = tmp_path / "out"
    assert main(["--config", str(config_file()), "--out", str(out)]) == 2
    assert load_checkpoint(out / "latest.pt", device="cpu")["step"] == 2
    assert "metrics.jsonl" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs SIGHUP")
@pytest.mark.parametrize(
    ("handler", "status", "steps"),
    [(signal.SIG_DFL, 129, 1), (signal.SIG_IGN, 0, 4)],
    ids=["closed", "nohup"],
)
def test_a_closed_terminal_saves_unless_that_signal_is_ignored(
    config_file: ConfigFile, tmp_path: Path, handler: signal.Handlers, status: int, steps: int
) -> None:
    stepped = LineProgress.stepped

    def hang_up(self: LineProgress, report: StepReport) -> None:
        stepped(self, report)
        if report.step == 1:
            signal.raise_signal(signal.SIGHUP)

    out = tmp_path / "out"
    before = signal.signal(signal.SIGHUP, handler)
    try:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(LineProgress, "stepped", hang_up)
            assert main(["--config", str(config_file()), "--out", str(out)]) == status
        assert signal.getsignal(signal.SIGHUP) is handler
    finally:
        signal.signal(signal.SIGHUP, before)
    assert load_checkpoint(out / "latest.pt", device="cpu")["step"] == steps


def test_a_folder_of_another_run_is_refused_and_replaced_only_by_force(
    config_file: ConfigFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    flags = ["--config", str(config_file()), "--out", str(out)]
    assert main(flags) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    capsys.readouterr()
    assert main([*flags, "--steps", "2"]) == 2
    assert "holds another run (latest.pt" in error_line(capsys)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert main([*flags, "--steps", "2", "--force"]) == 0
    assert sorted(path.name for path in out.glob("step_*")) == ["step_000002.pt"]


def test_a_finished_run_has_nothing_left_to_train(
    config_file: ConfigFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, again = tmp_path / "out", tmp_path / "again"
    config = str(config_file())
    assert main(["--config", config, "--out", str(out)]) == 0
    capsys.readouterr()
    assert main(["--config", config, "--resume", str(out / "latest.pt"), "--out", str(again)]) == 0
    said = capsys.readouterr().out
    assert "nothing left to train" in said
    assert "done" not in said
    assert not again.exists()


def test_other_settings_are_noticed_on_resuming(
    config_file: ConfigFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, more = tmp_path / "out", tmp_path / "more"
    assert main(["--config", str(config_file()), "--out", str(out), "--steps", "2"]) == 0
    train = {"seed": 1, "B": 2, "total_steps": 4, "eval_every": 2, "ckpt_every": 2, "log_every": 2}
    config = str(config_file(train=train))
    capsys.readouterr()
    assert main(["--config", config, "--resume", str(out / "latest.pt"), "--out", str(more)]) == 0
    said = capsys.readouterr().out
    assert "B 1 then, 2 now, total_steps 2 then, 4 now" in said
    assert "skipped or learned twice" in said


def test_a_checkpoint_from_before_the_seeds_of_dropout_changed_says_so(
    config_file: ConfigFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, config = tmp_path / "out", str(config_file())
    assert main(["--config", config, "--out", str(out)]) == 0
    old = load_checkpoint(out / "step_000002.pt", device="cpu")
    del old["run"]["rng"]["version"]
    assert (old["run"]["environment"]["processes"], old["run"]["environment"]["parallel"]) == (1, None)
    old["run"]["circumstances"] = old["run"].pop("environment") | {"threads": 77}
    old["best_val_loss"] = 0.0
    torch.save(old, tmp_path / "old.pt")
    capsys.readouterr()
    flags = ["--resume", str(tmp_path / "old.pt"), "--out", str(tmp_path / "more")]
    assert main(["--config", config, *flags]) == 0
    said = capsys.readouterr().out
    assert "the seeds of dropout changed" in said
    assert "threads 77 then" in said
    assert f"best held-out loss 0.0000, of an earlier run: none was better in {tmp_path / 'more'}" in said


def test_bytes_in_a_window_too_short_for_the_sample_train_too(
    config_file: ConfigFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    primer = str(tmp_path / "primer.txt")
    model = {"V": 256, "T": 128, "C": 16, "L": 1, "H": 2, "d_ff": 16}
    config = config_file(
        model=model, data={"dialogues": primer, "val_frac": 0.5, "tokenizer": {"kind": "bytes"}}
    )
    assert main(["--config", str(config), "--out", str(tmp_path / "bytes")]) == 0
    assert load_model(tmp_path / "bytes" / "latest.pt").template.name == "transcript"
    assert "no sample replies" in capsys.readouterr().out


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    return printed


def test_a_missing_configuration_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(tmp_path / "none.json")]) == 2
    assert "none.json" in error_line(capsys)


def test_a_missing_primer_is_one_line(config_file: ConfigFile, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(config_file(data={"dialogues": "nowhere.txt"}))]) == 2
    assert "nowhere.txt" in error_line(capsys)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there_is_one_line(
    config_file: ConfigFile, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(config_file()), "--device", "cuda"]) == 2
    assert "the device 'cuda' is not available here" in error_line(capsys)


def test_a_missing_checkpoint_is_one_line(
    config_file: ConfigFile, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(config_file()), "--resume", "nowhere.pt"]) == 2
    assert "nowhere.pt" in error_line(capsys)


USUAL = {"V": 300, "T": 256, "C": 16, "L": 1, "H": 2, "d_ff": 16, "dropout": 0.1}


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"train": {"seed": 2}}, "seed"),
        ({"optimizer": {"kind": "muon"}}, "optimizer 'adamw', the configuration says 'muon'"),
        ({"model": {"T": 256, "C": 32, "L": 1, "H": 2, "d_ff": 16}}, "C: checkpoint 16"),
        # The weights of an untied head would fit, and one of two matrices would be lost.
        ({"model": USUAL | {"tie_embeddings": False}}, "tie_embeddings True, the configuration says False"),
        ({"model": USUAL | {"norm": "rmsnorm"}}, "norm 'layernorm', the configuration says 'rmsnorm'"),
    ],
)
def test_a_checkpoint_of_another_run_is_one_line(
    config_file: ConfigFile,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    sections: dict[str, dict[str, int]],
    said: str,
) -> None:
    out = tmp_path / "out"
    assert main(["--config", str(config_file()), "--out", str(out)]) == 0
    flags = ["--resume", str(out / "latest.pt"), "--out", str(out)]
    assert main(["--config", str(config_file(**sections)), *flags]) == 2
    assert said in error_line(capsys)


@pytest.mark.parametrize(
    "flags", [[], ["--config", "x", "--device", "tpu"], ["--config", "x", "--steps", "0"]]
)
def test_a_mistyped_flag_exits_2(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(flags) == 2
