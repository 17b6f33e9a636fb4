"""Compute the gradients of a step with CUDA graphs.

The forward and the backward pass of a small model are hundreds of short kernels: launched one by one, a GPU
waits for them most of the time. A graph is recorded once for each width of batches, and launched at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from niels_gpt.train.batch import Batch
from niels_gpt.train.loss import target_weights, weighted_loss

WARM_UP = 3
"""Runs before a recording, in which torch chooses algorithms and allocates what stays."""


@dataclass(frozen=True)
class _Recording:
    """One graph with the memory that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: Tensor
    """(rows, width) int64; so are `targets`."""
    targets: Tensor
    weights: Tensor
    """(rows, width) float32; 0 for padding."""
    loss: Tensor
    gradients: list[Tensor | None]


class GraphedBackward:
    """Computes loss and gradients of whole batches; one graph for each width, all in one pool of memory."""

    def __init__(self, forward: nn.Module, *, device: str, places: int, prompt_weight: float) -> None:
        """Record for batches of at most `places` tokens, padding included."""
        self._forward = forward
        self._parameters = list(forward.parameters())
        self._device = device
        self._places = places
        self._prompt_weight = prompt_weight
        self._pool = torch.cuda.graph_pool_handle()
        self._recordings: dict[int, _Recording] = {}

    def __call__(self, batch: Batch) -> float:
        """Set the gradients of the parameters and return the loss; dropout continues torch's generator."""
        width = batch.inputs.shape[1]
        recording = self._recordings.get(width)
        if recording is None:
            # What a step draws must not depend on whether its graph had been recorded before.
            state = torch.cuda.get_rng_state(self._device)
            recording = self._recordings[width] = self._record(width)
            torch.cuda.set_rng_state(state, self._device)
        rows = len(batch.inputs)
        recording.inputs[:rows].copy_(batch.inputs)
        recording.targets[:rows].copy_(batch.targets)
        recording.weights.zero_()
        recording.weights[:rows].copy_(target_weights(batch, prompt_weight=self._prompt_weight))
        recording.graph.replay()
        for parameter, gradient in zip(self._parameters, recording.gradients, strict=True):
            parameter.grad = gradient
        return recording.loss.item()

    def _record(self, width: int) -> _Recording:
        shape, device = (max(1, self._places // width), width), self._device
        inputs = torch.zeros(shape, dtype=torch.int64, device=device)
        targets = torch.zeros(shape, dtype=torch.int64, device=device)
        weights = torch.zeros(shape, device=device)

        def backward() -> Tensor:
            loss = weighted_loss(self._forward, inputs, targets, weights)
            loss.backward()
            return loss.detach()

        aside = torch.cuda.Stream(device)
        aside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                self._forget()
                backward()
        torch.cuda.current_stream(device).wait_stream(aside)
        self._forget()  # the backward pass of the recording makes gradients of its own
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            loss = backward()
        gradients = [parameter.grad for parameter in self._parameters]
        return _Recording(graph, inputs, targets, weights, loss, gradients)

    def _forget(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None
