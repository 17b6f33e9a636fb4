"""A small run of the campaign in bench/, and the controls that show that it notices a difference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.exactness import Circumstance, circumstances, compare, dequantise, parse
from niels_gpt.model.checkpoint import save_checkpoint
from niels_gpt.model.config import ModelConfig, TrainConfig
from niels_gpt.model.gpt import GPT
from niels_gpt.model.loading import LoadedModel, load_model

HERE = [place for place in circumstances() if not place.restarted]


@pytest.fixture
def loaded(new_model: Callable[..., GPT], tmp_path: Path) -> LoadedModel:
    cfg, path = ModelConfig(T=256, C=64, L=2, H=2, d_ff=96), tmp_path / "a.pt"
    save_checkpoint(
        path, model_cfg=cfg, train_cfg=TrainConfig(), model=new_model(cfg), optimizer=None, step=0,
        best_val_loss=None,
    )  # fmt: skip
    return load_model(path)


def run(loaded: LoadedModel, *flags: str, places: list[Circumstance]) -> tuple[int, int]:
    options = parse(["--ckpt", str(loaded.path), "--replies", "8", "--tokens", "8", *flags])
    return compare(options, loaded, places)


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_no_circumstance_changes_a_row(loaded: LoadedModel, weights: str) -> None:
    compared, different = run(loaded, "--weights", weights, places=HERE)
    assert compared > 2000
    assert different == 0


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_torch_in_the_same_campaign_differs(loaded: LoadedModel, weights: str) -> None:
    if weights == "int8":
        dequantise(loaded.gpt)
    few = [Circumstance(batch=8, chunk=16, threads=1), Circumstance(batch=3, chunk=7, threads=1)]
    compared, different = run(loaded, "--weights", weights, "--decoder", "torch", places=few)
    assert different > compared / 2
