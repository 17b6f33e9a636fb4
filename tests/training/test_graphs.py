"""Gradients by CUDA graphs: the parts that need no GPU and, where there is one, the graphs themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from niels_gpt.model.config import ModelConfig
from niels_gpt.model.gpt import GPT
from niels_gpt.rng import set_seed
from niels_gpt.train.__main__ import main
from niels_gpt.train.batch import Batch
from niels_gpt.train.dialogue_data import Example, collate
from niels_gpt.train.graphs import GraphedBackward
from niels_gpt.train.loss import TrainingForward, batch_loss, target_weights, weighted_loss

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need an NVIDIA GPU")


@pytest.mark.parametrize("prompt_weight", [0.0, 0.3])
def test_the_weighted_loss_is_the_loss_of_the_batch(
    model: GPT, examples: list[Example], prompt_weight: float
) -> None:
    batch, forward = collate(examples, pad_to=16), TrainingForward(model)
    weights = target_weights(batch, prompt_weight=prompt_weight)
    weighted = weighted_loss(forward, batch.inputs, batch.targets, weights)
    torch.testing.assert_close(weighted, batch_loss(forward, batch, prompt_weight=prompt_weight))
    twice = weighted_loss(forward, batch.inputs, batch.targets, 2 * weights)
    assert twice.item() == pytest.approx(2 * weighted.item())


@pytest.mark.parametrize("other", [{"accumulation_steps": 2}, {"activation_checkpointing": True}])
def test_what_needs_several_passes_does_not_go_with_graphs(
    config_file: Callable[..., Path], other: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(config_file(compute={"graphs": True, **other}))]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"compute.graphs is true, which does not go with {next(iter(other))}" in line


def gradients(forward: TrainingForward) -> list[torch.Tensor]:
    return [p.grad.clone() for p in forward.parameters() if p.grad is not None]


def launched(forward: TrainingForward, batch: Batch) -> float:
    """Compute the gradients kernel by kernel; a recording would trip over anything left of that pass."""
    loss = batch_loss(forward, batch.to("cuda"), prompt_weight=0.3)
    loss.backward()
    return loss.item()


def gpu_forward(cfg: ModelConfig, *, dropout: float) -> TrainingForward:
    set_seed(1)
    forward = TrainingForward(GPT(ModelConfig(**{**vars(cfg), "dropout": dropout})).to("cuda"))
    return forward.train()


@needs_gpu
def test_a_graph_gives_the_gradients_of_the_launches(model_cfg: ModelConfig, examples: list[Example]) -> None:
    batch, forward = collate(examples, pad_to=16), gpu_forward(model_cfg, dropout=0.0)
    loss = launched(forward, batch)
    expected = gradients(forward)
    graphed = GraphedBackward(forward, device="cuda", places=512, prompt_weight=0.3)
    assert graphed(batch) == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(gradients(forward), expected, rtol=1e-3, atol=1e-5)


@needs_gpu
def test_dropout_of_a_graph_follows_the_seed(model_cfg: ModelConfig, examples: list[Example]) -> None:
    batch = collate(examples, pad_to=16)
    graphed = GraphedBackward(
        gpu_forward(model_cfg, dropout=0.5), device="cuda", places=512, prompt_weight=0.3
    )

    def loss(seed: int, batch: Batch) -> float:
        set_seed(seed)
        return graphed(batch)

    first = loss(7, batch)  # records
    assert loss(8, batch) != first
    assert loss(7, batch) == first
