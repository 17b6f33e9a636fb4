"""Ragged sequences through a model together: the logits of what comes next in each, step by step.

Rows may be dropped, repeated and put in another order between steps; beams and finished rows need that.
While every row fits the model's context, what was read stays in the model's state; beyond it, each step
reads each row's last `context` tokens anew.

R rows, t tokens at hand, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from niels_gpt.model.config import ModelConfig

CHUNK = 256  # tokens of each prompt read at once: bounds what a long one takes


class State(Protocol):
    """What a model keeps of rows that it has read; only the model looks inside."""

    def select(self, rows: Tensor) -> State:
        """Return the state of these rows (R',) int64, in this order; a row may come several times."""
        ...


class SteppableModel(Protocol):
    """A model as the stepper drives it."""

    cfg: ModelConfig

    def __call__(self, x: Tensor) -> Tensor:
        """Map ids (R, t) to logits (R, t, V)."""
        ...

    def new_state(self, B: int, room: int) -> State:
        """Return the state of B rows that will have at most `room` tokens."""
        ...

    def forward_from(self, x: Tensor, state: State, lengths: Tensor | None = None) -> Tensor:
        """Read the next ids (R, t), of which row r has `lengths[r]`; logits (R, t, V)."""
        ...

    def parameters(self) -> object:
        """Return the weights."""
        ...


class BatchedDecoder:
    """R sequences that grow together."""

    def __init__(
        self,
        model: SteppableModel,
        prompts: Sequence[Sequence[int]],
        *,
        new_tokens: int,
        use_cache: bool = True,
    ) -> None:
        """ValueError for an empty prompt or an id that the model does not have."""
        V = model.cfg.V
        for prompt in prompts:
            if not len(prompt):
                raise ValueError("the prompt is empty, expected at least one token")
            if not 0 <= min(prompt) <= max(prompt) < V:
                bad = next(i for i in prompt if not 0 <= i < V)
                raise ValueError(f"the prompt has the id {bad!r}, expected 0 to {V - 1}")
        self._model = model
        self._device = next(nn.Module.parameters(model)).device  # pyright: ignore[reportArgumentType]
        self._context = model.cfg.context
        self.rows = [list(prompt) for prompt in prompts]
        """All tokens of each row."""
        self._read = 0
        longest = max(map(len, self.rows)) + new_tokens
        fits = use_cache and longest <= self._context
        self._state = model.new_state(len(self.rows), longest) if fits else None

    @torch.no_grad()
    def logits(self) -> Tensor:
        """Return the logits (R, V) of each row's next token."""
        if self._state is None:
            return self._anew()
        if self._read:
            last = torch.tensor([row[-1:] for row in self.rows], device=self._device)
            return self._model.forward_from(last, self._state)[:, -1]
        return self._prompts()

    def append(self, ids: Sequence[int]) -> None:
        """Add a token to each row."""
        for row, token_id in zip(self.rows, ids, strict=True):
            row.append(token_id)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows, by number."""
        if list(rows) == list(range(len(self.rows))):
            return
        self.rows = [list(self.rows[row]) for row in rows]
        if self._state is not None:
            self._state = self._state.select(torch.tensor(rows, dtype=torch.int64))

    def _prompts(self) -> Tensor:
        lengths = torch.tensor([len(row) for row in self.rows])
        found: list[Tensor | None] = [None] * len(self.rows)
        for first in range(0, int(lengths.max()), CHUNK):
            chunk = [row[first : first + CHUNK] for row in self.rows]
            ids, here = _padded(chunk, self._device)
            assert self._state is not None  # noqa: S101 - the caller looked
            logits = self._model.forward_from(ids, self._state, here)
            for r, length in enumerate(lengths.tolist()):
                if first < length <= first + CHUNK:
                    found[r] = logits[r, length - first - 1]
        self._read = 1
        return torch.stack([row for row in found if row is not None])

    def _anew(self) -> Tensor:
        ids, lengths = _padded([row[-self._context :] for row in self.rows], self._device)
        # What follows a token cannot reach it, so the padding may lie behind.
        logits = self._model(ids)
        return logits[torch.arange(len(lengths)), lengths - 1]


def _padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ids (R, t) with zeros behind the shorter rows, on the device, and the lengths (R,)."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)
    return ids, torch.tensor([len(row) for row in rows])
