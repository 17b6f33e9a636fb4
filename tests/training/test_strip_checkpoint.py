from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from niels_gpt.model.checkpoint import load_checkpoint
from niels_gpt.model.loading import load_model
from niels_gpt.train.__main__ import main as train
from niels_gpt.train.strip_checkpoint import main

ConfigFile = Callable[..., Path]


@pytest.fixture
def run(config_file: ConfigFile, tmp_path: Path) -> Path:
    """A folder with the checkpoints of a short training run."""
    out = tmp_path / "out"
    assert train(["--config", str(config_file()), "--out", str(out)]) == 0
    return out


def test_a_release_talks_alike_and_resumes_with_a_new_optimizer(
    run: Path, config_file: ConfigFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = tmp_path / "ship" / "small.pt"
    assert main(["--ckpt", str(run / "latest.pt"), "--out", str(small)]) == 0
    assert load_model(small).fingerprint.digest == load_model(run / "latest.pt").fingerprint.digest
    assert small.stat().st_size < (run / "latest.pt").stat().st_size
    out = str(tmp_path / "more")
    assert train(["--config", str(config_file()), "--resume", str(small), "--out", out, "--steps", "5"]) == 0
    assert "no optimizer state" in capsys.readouterr().out


def test_several_checkpoints_become_the_mean_of_their_weights(run: Path, tmp_path: Path) -> None:
    first, last, small = run / "step_000002.pt", run / "latest.pt", tmp_path / "small.pt"
    assert main(["--ckpt", str(first), str(last), "--out", str(small)]) == 0
    a, b, mean = (load_checkpoint(path, device="cpu")["model_state"] for path in (first, last, small))
    assert not torch.equal(a["tok_emb.weight"], b["tok_emb.weight"])
    for name in mean:
        torch.testing.assert_close(mean[name], (a[name] + b[name]) / 2)
    assert load_checkpoint(small, device="cpu")["step"] == load_checkpoint(last, device="cpu")["step"]


def test_checkpoints_of_other_runs_are_not_averaged(
    run: Path, config_file: ConfigFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = load_checkpoint(run / "latest.pt", device="cpu")
    other["model_cfg"]["rope_theta"] = 500.0
    torch.save(other, tmp_path / "other.pt")
    assert (
        main(["--ckpt", str(tmp_path / "other.pt"), str(run / "latest.pt"), "--out", str(tmp_path / "s.pt")])
        == 2
    )
    assert "other.pt" in capsys.readouterr().err
    assert not (tmp_path / "s.pt").exists()


def test_releasing_a_missing_checkpoint_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--ckpt", str(tmp_path / "none.pt"), "--out", str(tmp_path / "small.pt")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "none.pt" in line
