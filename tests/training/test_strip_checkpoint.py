from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from niels_gpt.data.primer import DIALOGUE_DELIM
from niels_gpt.model.checkpoint import load_checkpoint
from niels_gpt.model.loading import load_model
from niels_gpt.paths import CONFIG_DIR, PRIMER_PATH
from niels_gpt.train.__main__ import main as train
from niels_gpt.train.metrics import read_metrics
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


def test_a_card_tells_the_steps_the_losses_and_the_digests(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small, card = tmp_path / "small.pt", tmp_path / "card.json"
    assert main(["--ckpt", str(run / "latest.pt"), "--out", str(small), "--card", str(card)]) == 0
    found = json.loads(card.read_text(encoding="utf-8"))
    stored, loaded = load_checkpoint(run / "latest.pt", device="cpu"), load_model(small)
    losses = [line for line in read_metrics(run / "metrics.jsonl") if line["step"] == 4]
    assert found["steps"] == 4
    assert found["parameters"] == sum(p.numel() for p in loaded.model.parameters())
    assert found["loss"] == {
        "training": losses[0]["loss"],
        "held out": losses[1]["val_loss"],
        "lowest held out": stored["best_val_loss"],
    }
    assert found["digests"]["data"] == stored["run"]["data"]["digest"]
    assert found["digests"]["model"] == loaded.fingerprint.digest
    assert found["digests"]["weights"] in capsys.readouterr().out
    assert (found["optimizer"], found["train"]["B"]) == ("adamw", 1)


def test_weights_rounded_to_bfloat16_take_half_the_room_and_load_as_they_were_rounded(
    run: Path, tmp_path: Path
) -> None:
    whole, half = tmp_path / "whole.pt", tmp_path / "half.pt"
    assert main(["--ckpt", str(run / "latest.pt"), "--out", str(whole)]) == 0
    assert main(["--ckpt", str(run / "latest.pt"), "--out", str(half), "--bfloat16"]) == 0
    exact, rounded = load_model(whole).state, load_model(half).state
    assert exact is not None
    assert rounded is not None
    for name, value in exact.items():
        expected = torch.from_numpy(value.copy()).bfloat16().float()
        assert torch.equal(torch.from_numpy(rounded[name].copy()), expected), name
    stored = load_checkpoint(half, device="cpu")["model_state"]
    assert stored["tok_emb.weight"].data_ptr() == stored["lm_head.weight"].data_ptr()
    assert load_model(whole).fingerprint.weights != load_model(half).fingerprint.weights


def test_the_configuration_of_the_shipped_model_gives_the_same_weights_twice(tmp_path: Path) -> None:
    text = PRIMER_PATH.read_text(encoding="utf-8")
    few = tmp_path / "few.txt"
    few.write_text(DIALOGUE_DELIM.join(text.split(DIALOGUE_DELIM)[:60]), encoding="utf-8")

    def weights(name: str, seed: int) -> str:
        """Two steps of the configuration, on fewer dialogues and in smaller batches."""
        content = json.loads((CONFIG_DIR / "primer.json").read_text(encoding="utf-8"))
        content["data"]["dialogues"] = [str(few)]
        content["train"] |= {"B": 1, "seed": seed}
        config, out = tmp_path / f"{name}.json", tmp_path / name
        config.write_text(json.dumps(content), encoding="utf-8")
        assert train(["--config", str(config), "--out", str(out), "--steps", "2", "--threads", "1"]) == 0
        return load_model(out / "latest.pt").fingerprint.weights

    first = weights("first", 42)
    assert weights("second", 42) == first
    assert weights("control", 43) != first


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
