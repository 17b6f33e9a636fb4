from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from niels_gpt.model.checkpoint import load_checkpoint
from niels_gpt.model.config import load_config_from_json
from niels_gpt.model.loading import load_model
from niels_gpt.paths import CONFIG_DIR
from niels_gpt.train.__main__ import main
from niels_gpt.train.metrics import read_metrics

from .kill_campaign import train_until, weights_of, without_its_counter

StreamConfig = Callable[..., Path]


@pytest.fixture
def stream_config(tmp_path: Path) -> StreamConfig:
    """Return a maker of configurations over a primer and a folder of texts; sections replace others."""
    (tmp_path / "texts").mkdir()
    for name in ("one", "two"):
        (tmp_path / "texts" / f"{name}.txt").write_text(f"{name} and {name} is two. " * 40, encoding="utf-8")
    dialogues = [f"user: what is {n}?\nassistant: it is {n}.\n" for n in range(100)]
    (tmp_path / "primer.txt").write_text("\n\n<dialogue>\n\n".join(dialogues), encoding="utf-8")

    def make(**sections: Any) -> Path:
        usual: dict[str, Any] = {
            "model": {"V": 256, "T": 64, "C": 16, "L": 1, "H": 2, "d_ff": 16, "dropout": 0.1},
            "train": {"seed": 1, "B": 4, "total_steps": 6, "eval_every": 3, "eval_steps": 1, "ckpt_every": 2,
                      "log_every": 1, "warmup_steps": 1},
            "data": {
                "enabled_sources": ["primer", "texts"],
                "primer_path": str(tmp_path / "primer.txt"),
                "folders": {"texts": str(tmp_path / "texts")},
                "cache_dir": str(tmp_path / "cache"),
            },
        }  # fmt: skip
        path = tmp_path / "config.json"
        path.write_text(json.dumps(usual | sections), encoding="utf-8")
        return path

    return make


def run(config: Path, out: Path, *flags: str) -> int:
    return main(["--config", str(config), "--out", str(out), *flags])


def test_local_text_is_learned_without_a_network(
    stream_config: StreamConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(stream_config(), out) == 0
    printed = capsys.readouterr().out
    assert "read 'primer'" in printed
    assert "bytes to learn: primer 3,494 (9.3%), texts 800 (90.7%)" in printed
    assert "step 3: held-out loss" in printed
    assert "  primer " in printed.split("held-out loss")[1]
    assert load_model(out / "best.pt").template.name == "transcript"
    lines = read_metrics(out / "metrics.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert [set(line["val"]) for line in lines if "val" in line] == [{"texts", "primer"}] * 2


def test_a_run_killed_and_resumed_ends_in_the_same_weights_and_the_same_metrics(
    stream_config: StreamConfig, tmp_path: Path
) -> None:
    config = stream_config()
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(config, whole) == 0
    train_until(config, killed, resume=None, kill_after=3)
    assert not (killed / "step_000006.pt").exists()
    assert run(config, killed, "--resume", str(killed / "latest.pt")) == 0
    assert weights_of(killed / "latest.pt") == weights_of(whole / "latest.pt")
    losses = [[(line["step"], line["loss"]) for line in read_metrics(out / "metrics.jsonl") if "loss" in line]
              for out in (whole, killed)]  # fmt: skip
    assert losses[0] == losses[1]


def test_without_its_counter_of_randomness_a_resumed_run_ends_in_other_weights(
    stream_config: StreamConfig, tmp_path: Path
) -> None:
    config, whole, other = stream_config(), tmp_path / "whole", tmp_path / "other"
    assert run(config, whole) == 0
    assert run(config, other, "--resume", str(without_its_counter(whole / "step_000002.pt"))) == 0
    assert weights_of(other / "latest.pt") != weights_of(whole / "latest.pt")


def test_a_damaged_checkpoint_is_refused_by_name_and_the_one_before_it_offered(
    stream_config: StreamConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, config = tmp_path / "out", stream_config()
    assert run(config, out) == 0
    for name in ("latest.pt", "step_000006.pt", "best.pt"):
        content = (out / name).read_bytes()
        (out / name).write_bytes(content[: len(content) // 2])
    assert run(config, out, "--resume", str(out / "latest.pt")) == 2
    said = capsys.readouterr().err
    assert "latest.pt' is not a checkpoint, or is damaged" in said
    assert f"after step 4 with --resume {out / 'step_000004.pt'}" in said


def test_what_killed_saves_left_behind_is_removed(stream_config: StreamConfig, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    nobody = 2**22 + 1  # beyond the largest process number
    stale, foreign = out / f".latest.pt.{nobody}.tmp", out / ".latest.pt.tmp"
    stale.write_bytes(b"half")
    foreign.write_bytes(b"not ours")
    assert run(stream_config(), out) == 0
    assert not stale.exists()
    assert foreign.exists()


def test_other_data_are_noticed_on_resuming(
    stream_config: StreamConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, config = tmp_path / "out", stream_config()
    assert run(config, out) == 0
    (tmp_path / "primer.txt").write_text(
        "user: hi\nassistant: ho\n\n\n<dialogue>\n\n" * 200, encoding="utf-8"
    )
    assert run(config, tmp_path / "more", "--resume", str(out / "step_000002.pt")) == 0
    assert "the data differ from those" in capsys.readouterr().out


def test_parts_of_a_batch_learn_what_the_whole_batch_does(
    stream_config: StreamConfig, tmp_path: Path
) -> None:
    model = {"V": 256, "T": 64, "C": 16, "L": 1, "H": 2, "d_ff": 16, "dropout": 0.0}
    losses = []
    for count in (1, 3):
        compute = {"accumulation_steps": count, "activation_checkpointing": count > 1, "amp": None}
        out = tmp_path / str(count)
        assert run(stream_config(model=model, compute=compute), out) == 0
        losses.append([line["loss"] for line in read_metrics(out / "metrics.jsonl") if "loss" in line])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"data": {"cache_dir": "nowhere"}}, "'wiki' cannot be read"),
        ({"data": {"enabled_sources": ["roam"], "roam_root": "nowhere"}}, "none of the sources roam"),
    ],
)
def test_sources_that_are_not_there_are_one_line_with_the_way_out(
    stream_config: StreamConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    sections: dict[str, Any],
    said: str,
) -> None:
    assert run(stream_config(**sections), tmp_path / "out") == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert said in printed
    assert "folders" in printed


def test_a_mix_that_forgets_a_source_is_refused(
    stream_config: StreamConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = {"total_steps": 1, "B": 1, "p_train": {"primer": 1.0}}
    assert run(stream_config(train=train), tmp_path / "out") == 2
    assert "has no 'texts'" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "steps"), [("smoke", 1000), ("train", 20000)])
def test_the_shipped_configurations_have_the_original_form(name: str, steps: int) -> None:
    model_cfg, train_cfg = load_config_from_json(CONFIG_DIR / f"{name}.json")
    assert train_cfg.total_steps == steps
    assert (model_cfg.V, model_cfg.T, model_cfg.C, model_cfg.L) == (256, 256, 256, 4)


def test_a_checkpoint_says_where_its_randomness_and_its_data_stand(
    stream_config: StreamConfig, tmp_path: Path
) -> None:
    assert run(stream_config(), tmp_path / "out") == 0
    held = load_checkpoint(tmp_path / "out" / "step_000004.pt", device="cpu")["run"]
    assert held["rng"] == {"seed": 1, "counter": 4, "version": 2}
    assert held["data"]["position"] == 4
    assert held["environment"]["processes"] == 1
