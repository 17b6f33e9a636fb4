"""Decode ragged sequences together with a torch model: the logits of the next token of each, step by step.

Rows may be dropped, repeated and reordered between steps, as beams and finished rows need it. While every row
fits the model's context, the model's state holds what was read; beyond it, and for modules without a state,
each step reads each row's last `context` tokens again.

R rows, t tokens so far, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from niels_gpt.model.config import NO_LIMIT, ModelConfig

CHUNK = 256  # tokens of each prompt read at once: bounds the memory of a long one


class State(Protocol):
    """The state of rows that a model has read; opaque to all but the model."""

    def select(self, rows: Tensor) -> State:
        """Return the state of these rows (R',) int64, in this order; a row may come several times."""
        ...


class SteppableModel(Protocol):
    """A model as this decoder drives it."""

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
    """Sequences that are decoded together."""

    def __init__(
        self,
        model: SteppableModel,
        prompts: Sequence[Sequence[int]],
        *,
        new_tokens: int,
        use_cache: bool = True,
    ) -> None:
        """Start with the prompts; ValueError for an empty one, or an id that the model does not have.

        A module without a `cfg` of ours has no known vocabulary, and its context is its `context_length`, if
        it has one.
        """
        cfg = getattr(model, "cfg", None)
        V = cfg.V if isinstance(cfg, ModelConfig) else NO_LIMIT
        for prompt in prompts:
            if not len(prompt):
                raise ValueError("the prompt is empty, expected at least one token")
            if not 0 <= min(prompt) <= max(prompt) < V:
                bad = next(i for i in prompt if not 0 <= i < V)
                raise ValueError(f"the prompt has the id {bad!r}, expected 0 to {V - 1}")
        self._model = model
        weight = next(nn.Module.parameters(model), None)  # pyright: ignore[reportArgumentType]
        self._device = torch.device("cpu") if weight is None else weight.device
        limit = getattr(model, "context_length", NO_LIMIT)
        self._context: int = cfg.context if isinstance(cfg, ModelConfig) else limit
        self.rows = [list(prompt) for prompt in prompts]
        """All tokens of each row."""
        self._read = 0
        longest = max(map(len, self.rows)) + new_tokens
        fits = use_cache and longest <= self._context and hasattr(model, "new_state")
        self._state = model.new_state(len(self.rows), longest) if fits else None

    @torch.no_grad()
    def logits(self) -> Tensor:
        """Return the logits (R, V) of each row's next token."""
        if self._state is None:
            return self._recomputed()
        if self._read:
            last = torch.tensor([row[-1:] for row in self.rows], device=self._device)
            return self._model.forward_from(last, self._state)[:, -1]
        return self._prompts()

    def append(self, ids: Sequence[int]) -> None:
        """Add a token to each row."""
        for row, token_id in zip(self.rows, ids, strict=True):
            row.append(token_id)

    def keep(self, rows: Sequence[int]) -> None:
        """Continue with these rows, by number."""
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

    def _recomputed(self) -> Tensor:
        ids, lengths = _padded([row[-self._context :] for row in self.rows], self._device)
        # Attention is causal, so padding on the right changes nothing.
        logits = self._model(ids)
        return logits[torch.arange(len(lengths)), lengths - 1]


def _padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ids (R, t) with zeros behind the shorter rows, on the device, and the lengths (R,)."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)
    return ids, torch.tensor([len(row) for row in rows])
