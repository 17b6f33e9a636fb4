"""The data of each sequence on a GPU that the sampler reads and changes, by slot, and the launch of a draw.

V vocabulary, N sequences that draw, W rows that they draw from.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from niels_gpt.kernels.cuda.driver import Driver
from niels_gpt.kernels.slots import UNIFORMS, new_settings, set_slot

if TYPE_CHECKING:
    from niels_gpt.sampling.settings import Sampling

SCRATCH = {"scaled": 4, "weights": 4, "ids": 4, "sums": 8, "keys": 8}
"""Bytes that a draw needs for each id, see `Scratch` in sampler.cu."""
MOST_THREADS = 512  # as sampler.cu is compiled for
MOST_BLOCKS = 256
"""Draws that run side by side; more wait."""


@dataclass(frozen=True)
class Draws:
    """Addresses of what a step draws from, and of the results of a call's steps; counts N and W."""

    slots: int
    """(N,) int32."""
    first: int
    """(N + 1,) int32: the first wanted row of each sequence."""
    wanted: int
    """(W,) int32: rows of the step."""
    steps: int
    """(N,) int32: how many steps of the call were drawn."""
    ids: int
    """(steps, W) int64, or a negative code."""
    margins: int
    """(steps, W) float64."""
    sums: int
    """(steps, W) uint64."""
    sequences: int
    rows: int


class DeviceSlots:
    """Sampling settings, counts, bans and uniforms of `count` slots."""

    def __init__(self, driver: Driver, *, V: int, row: int, count: int) -> None:
        """`row` is the stride of rows of logits, V in whole vectors."""
        self._driver, self._V, self._row, self.count = driver, V, row, count
        fields = new_settings(count)._asdict() | {
            "counts": np.zeros((count, V), np.int32),
            "banned": np.zeros((count, V), np.bool_),
            "uniforms": np.zeros((count, UNIFORMS)),
            "used": np.zeros(count, np.int32),
        }
        self._lines = {name: array[0].nbytes for name, array in fields.items()}
        self._places = {name: driver.allocate(array.nbytes) for name, array in fields.items()}
        self._table = self._uploaded(np.array(list(self._places.values()), np.uint64))
        self._blocks = min(count, MOST_BLOCKS)
        self._threads = 128 if V <= 1024 else 256 if V <= 8192 else MOST_THREADS
        self._scratch = [driver.allocate(self._blocks * row * size) for size in SCRATCH.values()]

    @staticmethod
    def slot_bytes(V: int, row: int) -> int:
        """Return about how many bytes each slot needs."""
        return 5 * V + row * sum(SCRATCH.values()) + 8 * UNIFORMS + 4096

    def _uploaded(self, array: np.ndarray) -> int:
        address = self._driver.allocate(array.nbytes)
        self._driver.upload(address, array)
        return address

    def set(self, slot: int, sampling: Sampling, counts: np.ndarray, banned_ids: Iterable[int]) -> None:
        """Set what decides a slot's draws; counts (V,) int32 are those of the prompt."""
        settings = new_settings(1)
        set_slot(settings, 0, sampling)
        banned = np.zeros(self._V, np.bool_)
        banned[list(banned_ids)] = True
        lines = {name: array[0] for name, array in settings._asdict().items()}
        for name, line in {**lines, "counts": counts, "banned": banned}.items():
            self._put(name, slot, np.ascontiguousarray(line))

    def refill(self, slot: int, uniforms: np.ndarray) -> None:
        """Replace the uniforms (UNIFORMS,) of a slot, of which none is used now."""
        self._put("uniforms", slot, uniforms)
        self._put("used", slot, np.zeros(1, np.int32))

    def _put(self, name: str, slot: int, line: np.ndarray) -> None:
        self._driver.upload(self._places[name] + slot * self._lines[name], line)

    def grown(self, count: int) -> DeviceSlots:
        """Return `count` slots, the first of which are these; these are freed."""
        larger = DeviceSlots(self._driver, V=self._V, row=self._row, count=count)
        for name, place in self._places.items():
            kept = np.zeros(self.count * self._lines[name], np.uint8)
            self._driver.download(place, kept)
            self._driver.upload(larger._places[name], kept)
        self.close()
        return larger

    def close(self) -> None:
        """Free the memory."""
        for address in (*self._places.values(), self._table, *self._scratch):
            self._driver.free(address)

    def draw(
        self, draws: Draws, logits: int, multipliers: int, ids: int, positions: int, *, feed: bool
    ) -> None:
        """Launch the draws of one step.

        Args:
            draws: What to draw from.
            logits: The address of W rows.
            multipliers: That of (V,) uint64, of the rows' sums.
            ids: That of the step's tokens, int32, among which a draft's expected tokens are.
            positions: That of their positions, int32.
            feed: Whether each sequence has one row, which the drawn token replaces.

        """
        i32 = np.int32
        numbers = (i32(draws.sequences), i32(draws.rows), i32(feed))
        self._driver.launch(
            "sample", (min(draws.sequences, self._blocks), 1), self._threads,
            (logits, i32(self._row), i32(self._V), multipliers, self._table, draws.slots, draws.first,
             draws.wanted, ids, positions, draws.steps, *numbers, *self._scratch, draws.ids, draws.margins,
             draws.sums),
        )  # fmt: skip
