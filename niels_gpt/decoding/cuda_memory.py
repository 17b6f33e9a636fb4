"""The GPU memory of one call: what is sent, what is received, and the logits between them.

N sequences that draw, W rows that they draw from, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from niels_gpt.decoding.row_decoder import RowBatch
from niels_gpt.kernels.cuda.driver import Driver
from niels_gpt.kernels.cuda.model import Rows
from niels_gpt.kernels.cuda.slots import Draws

MOST_STEPS = 16
"""Steps of one call."""


class StepMemory:
    """What a call sends to the GPU and receives from it."""

    def __init__(self, driver: Driver, *, row: int, rows: int) -> None:
        self._driver, self._row = driver, row
        self._count = 0
        self._sent = self._received = self.logits = 0
        self.reserve(rows)

    def reserve(self, rows: int) -> bool:
        """Allocate for up to `rows` rows and as many sequences; return whether addresses changed."""
        if rows <= self._count:
            return False
        self.close()
        self._count = max(rows, 2 * self._count)
        self._sent = self._driver.allocate(4 * 7 * (self._count + 1))
        self._received = self._driver.allocate(8 * 3 * MOST_STEPS * self._count)
        self.logits = self._driver.allocate(4 * self._count * self._row)
        return True

    def close(self) -> None:
        """Free the memory."""
        for address in (self._sent, self._received, self.logits):
            if address:
                self._driver.free(address)
        self._sent = self._received = self.logits = 0

    def _place(self, which: int) -> int:
        return self._sent + 4 * which * (self._count + 1)

    @property
    def wanted(self) -> int:
        """The address of the wanted rows."""
        return self._place(3)

    def write(self, batch: RowBatch[Any], slots: Sequence[int], first: np.ndarray) -> None:
        """Send the rows of a step, and which of them each sequence draws from."""
        parts = (batch.ids, batch.positions, batch.slots, batch.wanted, slots, first, np.zeros(len(slots)))
        sent = np.zeros((len(parts), self._count + 1), np.int32)
        for line, part in zip(sent, parts, strict=True):
            line[: len(part)] = part
        self._driver.upload(self._sent, sent)

    def rows(self, count: int, run: int) -> Rows:
        """Return the addresses of the rows, of which a sequence has `run` at most."""
        return Rows(self._place(0), self._place(1), self._place(2), count, run)

    def draws(self, sequences: int, rows: int) -> Draws:
        """Return the addresses of the draws, whose results follow each other without gaps."""
        size = 8 * MOST_STEPS * rows
        return Draws(
            slots=self._place(4), first=self._place(5), wanted=self._place(3), steps=self._place(6),
            ids=self._received, margins=self._received + size, sums=self._received + 2 * size,
            sequences=sequences, rows=rows,
        )  # fmt: skip

    def read(self, steps: int, rows: int) -> tuple[np.ndarray, ...]:
        """Receive ids, margins and sums, each (steps, rows)."""
        received = np.zeros((3, MOST_STEPS, rows), np.int64)
        if rows:
            self._driver.download(self._received, received)
        ids, margins, sums = received[:, :steps]
        return ids, margins.view(np.float64), sums.view(np.uint64)

    def read_logits(self, rows: int) -> np.ndarray:
        """Receive the last step's logits, (rows, `row`) float32."""
        logits = np.zeros((rows, self._row), np.float32)
        self._driver.download(self.logits, logits)
        return logits
