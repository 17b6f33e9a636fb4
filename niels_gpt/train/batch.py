"""Define a batch of training data: inputs, targets, and which targets are learned.

A batch may be cut into parts, for several processes or to save memory. Each part has the totals of the whole
batch, so that the losses of the parts add up to the loss of the batch.

B rows of a batch, t its longest row in tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Learned targets of a whole batch: of replies (or of running text), and of prompts."""

    replies: int
    prompts: int


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Inputs and next-token targets (B, t) int64, and which targets are of replies and of prompts."""

    inputs: Tensor
    targets: Tensor
    learned: Tensor
    """(B, t) bool: the targets of replies."""
    prompt: Tensor
    """(B, t) bool: all other targets except padding."""
    tokens: int
    """Input tokens without padding."""
    dense: bool = False
    """Whether every target is learned, as in running text."""
    whole: Totals | None = None
    """Totals of the batch that this is a part of; None for a whole batch."""

    @property
    def totals(self) -> Totals:
        """The divisors of the losses."""
        if self.whole is not None:
            return self.whole
        return Totals(replies=int(self.learned.sum()), prompts=int(self.prompt.sum()))

    def parts(self, count: int) -> list[Batch]:
        """Cut the rows into `count` parts of nearly equal size, in order.

        Where rows are too few, a part is one row without learned targets: its gradient is zero, and every
        process still takes part in every collective operation.
        """
        rows, totals = len(self.inputs), self.totals
        bounds = [rows * n // count for n in range(count + 1)]
        spans = itertools.pairwise(bounds)
        return [replace(self._rows(first, end), whole=totals) for first, end in spans]

    def to(self, device: str) -> Batch:
        """Return the batch on a device."""
        return replace(
            self,
            inputs=self.inputs.to(device),
            targets=self.targets.to(device),
            learned=self.learned.to(device),
            prompt=self.prompt.to(device),
            whole=self.totals,
        )

    def _rows(self, first: int, end: int) -> Batch:
        if (first, end) == (0, len(self.inputs)):
            return self
        if first == end:
            idle = self._rows(0, 1)
            nothing = torch.zeros_like(idle.learned)
            return replace(idle, learned=nothing, prompt=nothing, tokens=0, dense=False)
        real = (self.learned | self.prompt)[first:end]
        width = int(real.any(dim=0).nonzero().max()) + 1  # the rest is padding for longer rows of other parts
        columns = (slice(first, end), slice(0, width))
        return replace(
            self,
            inputs=self.inputs[columns],
            targets=self.targets[columns],
            learned=self.learned[columns],
            prompt=self.prompt[columns],
            tokens=int(real.sum()),
        )


class TrainingData(Protocol):
    """Training and held-out data of a run. Batches are a function of the position."""

    @property
    def digest(self) -> str:
        """One line that tells two sets of data apart."""
        ...

    def from_position(self, position: int) -> Iterator[Batch]:
        """Yield the batches `position`, `position + 1`, ... without end; positions count from 0."""
        ...

    def evaluate(self, forward: nn.Module, *, device: str) -> dict[str, float]:
        """Return the held-out loss by source, in nats a token; the first decides which model is the best."""
        ...
