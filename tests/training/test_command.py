from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from niels_gpt.model.checkpoint import load_checkpoint
from niels_gpt.model.loading import load_model
from niels_gpt.train.__main__ import main

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


def test_ctrl_c_saves_and_says_how_to_go_on(
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


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"train": {"seed": 2}}, "seed"),
        ({"model": {"T": 256, "C": 32, "L": 1, "H": 2, "d_ff": 16}}, "C: checkpoint 16"),
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
    assert main(["--config", str(config_file(**sections)), "--resume", str(out / "latest.pt")]) == 2
    assert said in error_line(capsys)


@pytest.mark.parametrize(
    "flags", [[], ["--config", "x", "--device", "tpu"], ["--config", "x", "--steps", "0"]]
)
def test_a_mistyped_flag_exits_2(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(flags) == 2
