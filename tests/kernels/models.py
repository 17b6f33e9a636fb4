"""Models of every form that the kernels know, small and with weights that matter, and their torch twins."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch

from niels_gpt.kernels import WeightForm
from niels_gpt.kernels.gpt import forward
from niels_gpt.kernels.gpt_layout import Rows
from niels_gpt.kernels.gpt_packing import PackedModel, StepMemory, new_state, pack_gpt
from niels_gpt.model.config import ModelConfig
from niels_gpt.model.gpt import GPT
from niels_gpt.model.int8 import quantised

SHAPES = {
    "default form": ModelConfig(V=64, T=48, C=32, L=2, H=2, d_ff=64),
    "rmsnorm, swiglu": ModelConfig(V=70, T=48, C=48, L=2, H=3, d_ff=40, norm="rmsnorm", mlp="swiglu"),
    "untied head": ModelConfig(V=64, T=48, C=32, L=1, H=2, d_ff=48, tie_embeddings=False),
    "gated with biases": ModelConfig(V=33, T=48, C=32, L=1, H=1, d_ff=32, mlp="swiglu", mlp_bias=True),
    "odd widths": ModelConfig(V=37, T=48, C=30, L=2, H=3, d_ff=29),
    "one head, one layer": ModelConfig(V=19, T=48, C=6, L=1, H=1, d_ff=5, norm="rmsnorm"),
    "many narrow heads": ModelConfig(V=50, T=48, C=28, L=2, H=7, d_ff=33),
}

FORMS: tuple[WeightForm, ...] = ("float32", "int8")
"""Those whose twin in torch has exactly the numbers that they stand for, next to float32 activations."""


@dataclass(frozen=True)
class Built:
    cfg: ModelConfig
    torch: GPT
    """With the weights that the packed model stands for."""
    packed: PackedModel


def build(cfg: ModelConfig, seed: int = 0, form: WeightForm = "float32") -> Built:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GPT(cfg).eval()
        for name, parameter in model.named_parameters():
            # Larger than at the start of a training, and no norm or bias at its neutral value.
            noise = torch.randn_like(parameter) * 0.2
            parameter.data.add_(noise if parameter.dim() == 1 else noise / cfg.C**0.5 * 4)
            assert parameter.isfinite().all(), name
    return Built(cfg, model if form == "float32" else dequantised(model), pack_gpt(model, form))


def dequantised(model: GPT) -> GPT:
    """A copy whose linear layers and head hold the values of their int8 form; the embedding stays."""
    model = copy.deepcopy(model)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    for layer in model.modules():
        if isinstance(layer, torch.nn.Linear):
            integers, scales = quantised(layer.weight.detach().numpy())
            layer.weight.data = torch.from_numpy(integers * scales[:, None])
    return model


class Reader:
    """One sequence that is read in portions; `read` gives the logits of every token it was handed."""

    def __init__(self, packed: PackedModel, *, positions: int, parts: int = 1) -> None:
        self.packed, self.at = packed, 0
        self.state, self.room = new_state(packed.shape, positions)
        self.memory = StepMemory(packed.shape, rows=positions, room=positions, parts=parts)

    def rows(self, ids: list[int]) -> Rows:
        count = len(ids)
        return Rows(
            np.array(ids, np.int64),
            np.arange(self.at, self.at + count),
            np.full(count, self.state.ctypes.data),
            np.full(count, self.room),
        )

    def read(self, ids: list[int]) -> np.ndarray:
        logits = np.full((len(ids), self.packed.shape.head_row), np.nan, np.float32)
        step(self.packed, self.memory, self.rows(ids), logits)
        self.at += len(ids)
        return logits[:, : self.packed.shape.V]


def step(packed: PackedModel, memory: StepMemory, rows: Rows, logits: np.ndarray) -> None:
    wanted = np.arange(len(rows.ids))
    forward(packed.shape, packed.weights, memory.work, rows, wanted, logits.ctypes.data, 0, 1)


def read_in(packed: PackedModel, ids: list[int], portions: list[int]) -> np.ndarray:
    assert sum(portions) == len(ids)
    reader, at, logits = Reader(packed, positions=len(ids)), 0, []
    for count in portions:
        logits.append(reader.read(ids[at : at + count]))
        at += count
    return np.concatenate(logits)
