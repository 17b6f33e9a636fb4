"""Store keys and values of many sequences in one tensor, so that a step of all is one forward, no copy.

A sequence owns a row. Sequences that step together must be in the first rows. `pack` moves only those that
are not, which happens when a sequence joins or leaves, not at every step. Free rows are zero, because values
that attention masks out must still be finite, and no sequence may see the data of a previous one.

L layers, R rows, H heads, T context window, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(eq=False)
class Row:
    """A sequence's row: its current index, and how many positions hold keys and values."""

    index: int
    length: int = 0


class KVBuffer:
    """Allocates rows on demand; the tensors double when all are taken."""

    def __init__(self, *, L: int, H: int, T: int, D: int, device: torch.device, dtype: torch.dtype) -> None:
        self._k = torch.zeros((L, 0, H, T, D), device=device, dtype=dtype)
        self._v = torch.zeros_like(self._k)
        self._rows: list[Row | None] = []

    def take(self) -> Row:
        """Return an empty row."""
        if None not in self._rows:
            self._grow()
        row = Row(self._rows.index(None))
        self._rows[row.index] = row
        return row

    def free(self, row: Row) -> None:
        """Free a row and set it to zero. A row that is already free stays free."""
        if row.index < len(self._rows) and self._rows[row.index] is row:
            for cache in (self._k, self._v):
                cache[:, row.index, :, : row.length].zero_()
            self._rows[row.index] = None

    def pack(self, rows: Sequence[Row]) -> None:
        """Move as few rows as possible so that these n are in the first n places, in any order."""
        taken = {row.index for row in rows}
        gaps = [index for index in range(len(rows)) if index not in taken]
        for row in rows:
            if row.index >= len(rows):
                self._swap(row.index, gaps.pop())

    def extend(self, rows: Sequence[Row], t: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Make room for t more positions of each of these adjacent rows, in order.

        Returns k and v, views (L, n, H, S, D) with S the longest length, to be written at once, and start
        (n,), the first new position of each row. The new lengths are valid from here on, so `free` clears
        what is written.
        """
        start = torch.tensor([row.length for row in rows], device=self._k.device)
        for row in rows:
            row.length += t
        first, span = rows[0].index, max(row.length for row in rows)
        k, v = (cache[:, first : first + len(rows), :, :span] for cache in (self._k, self._v))
        return k, v, start

    def _swap(self, a: int, b: int) -> None:
        span = max(row.length for row in (self._rows[a], self._rows[b]) if row is not None)
        for cache in (self._k, self._v):
            kept = cache[:, a, :, :span].clone()
            cache[:, a, :, :span] = cache[:, b, :, :span]
            cache[:, b, :, :span] = kept
        self._rows[a], self._rows[b] = self._rows[b], self._rows[a]
        for index in (a, b):
            row = self._rows[index]
            if row is not None:
                row.index = index

    def _grow(self) -> None:
        more = max(1, len(self._rows))
        for name in ("_k", "_v"):
            cache = getattr(self, name)
            L, _, H, T, D = cache.shape
            setattr(self, name, torch.cat([cache, cache.new_zeros((L, more, H, T, D))], dim=1))
        self._rows += [None] * more
