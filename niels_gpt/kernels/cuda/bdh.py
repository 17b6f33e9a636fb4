"""A packed BDH on a GPU: the launches of `niels_gpt.kernels.bdh.forward`, operation by operation.

A sequence's memories are one page, whatever the number of its positions.

L times the layer, H heads, N latents of a head in whole vectors, C width, V vocabulary, M rows of a step.
"""

from __future__ import annotations

import numpy as np

from niels_gpt.kernels.bdh import NORM_EPS
from niels_gpt.kernels.bdh_packing import PackedBDH
from niels_gpt.kernels.cuda.driver import Driver
from niels_gpt.kernels.cuda.model import NO_ACTIVATION, PAGE, Input, Pages, Part, Rows, launch_product
from niels_gpt.kernels.gpt import RELU
from niels_gpt.kernels.rope_angles import COSINE, SINE
from niels_gpt.model.config import NO_LIMIT


class CudaBDH:
    """A BDH whose weights are on a GPU."""

    page_positions = NO_LIMIT

    def __init__(self, packed: PackedBDH, driver: Driver) -> None:
        """Copy the weights to the GPU; MemoryError if they do not fit."""
        self.shape, self.T, self.driver = packed.shape, packed.T, driver
        self._memory = driver.allocate(packed.memory.nbytes)
        driver.upload(self._memory, packed.memory)
        moved, w = self._memory - packed.memory.ctypes.data, packed.weights
        self._embedding, self._encoder, self._gates, self._decoder, self._head = (
            address + moved for address in (w.embedding, w.encoder, w.gates, w.decoder, w.head)
        )
        self._ones, self._zeros = w.ones + moved, w.zeros + moved
        self._frequencies = self._uploaded(w.frequencies)
        self._series = self._uploaded(np.array([*COSINE, *SINE]))
        self.page_floats = packed.state_bytes // 4
        """Floats of the page that holds a sequence's memories."""
        self._rows = 0
        self._work: dict[str, int] = {}

    def _uploaded(self, array: np.ndarray) -> int:
        address = self.driver.allocate(array.nbytes)
        self.driver.upload(address, array)
        return address

    def reserve(self, rows: int) -> bool:
        """Allocate the workspace for steps of up to `rows` rows; return whether addresses changed."""
        if rows <= self._rows:
            return False
        for address in self._work.values():
            self.driver.free(address)
        s = self.shape
        sizes = {
            "x": s.row, "latents": s.H * s.N, "gates": s.H * s.N, "mixed": s.H * s.row, "out": s.row,
            "cosine": s.N, "sine": s.N,
        }  # fmt: skip
        self._work = {name: self.driver.allocate(4 * (rows * size + PAGE)) for name, size in sizes.items()}
        self._rows = rows
        return True

    def close(self) -> None:
        """Free the weights and the workspace."""
        for address in (self._memory, self._frequencies, self._series, *self._work.values()):
            self.driver.free(address)
        self._work, self._rows = {}, 0

    def forward(self, rows: Rows, pages: Pages, wanted: int, count: int, logits: int) -> None:
        """Run rows through the model; see `CudaModel.forward`."""
        s, M, work, i32 = self.shape, rows.count, self._work, np.int32
        width, launch = s.H * s.N, self.driver.launch
        launch(
            "look_up", (M, 1), 128, (rows.ids, self._embedding, work["x"], i32(s.row), i32(s.C))
        )  # fmt: skip
        self._norm(work["x"], 0, work["x"], M)
        launch(
            "phases", (M, -(-s.N // 256)), 256,
            (rows.positions, self._frequencies, self._series, work["cosine"], work["sine"], i32(s.N)),
        )  # fmt: skip
        columns = -(-s.C // 128)
        for layer in range(s.L):
            self._product(work["x"], s.row, self._encoder, work["latents"], M, width, act=RELU)
            launch(
                "recall", (M, s.H * columns), 128,
                (work["latents"], work["x"], i32(s.row), work["cosine"], work["sine"], rows.positions,
                 rows.slots, pages.memory, self.page_floats, layer * s.H * s.N * s.row, pages.table,
                 i32(pages.most), work["mixed"], i32(M), i32(s.H), i32(s.N), i32(s.C)),
            )  # fmt: skip
            self._norm(work["mixed"], 0, work["mixed"], M * s.H)
            for head in range(s.H):
                mixed, gates = work["mixed"] + 4 * head * s.row, work["gates"] + 4 * head * s.N
                self._product(mixed, s.H * s.row, self._gates + 4 * head * s.N * s.C, gates, M, s.N)
            launch("gate", (M, -(-width // 256)), 256, (work["gates"], work["latents"], i32(width)))
            launch(
                "gather", (M, columns), 128,
                (work["gates"], self._decoder, work["out"], i32(s.row), i32(width), i32(s.C)),
            )  # fmt: skip
            self._norm(work["out"], 0, work["out"], M)
            launch("add_rows", (M, -(-s.C // 256)), 256, (work["x"], work["out"], i32(s.row), i32(s.C)))
            self._norm(work["x"], 0, work["x"], M)
        if count:
            self._copy_wanted(wanted, count)
            head = Part(self._head, self._zeros, 0, logits, s.head_row, s.V)
            launch_product(self.driver, "float32", Input(work["out"], s.row, s.C), [head], count)

    def _norm(self, x: int, chosen: int, y: int, count: int) -> None:
        s, i32 = self.shape, np.int32
        self.driver.launch(
            "norm_rows", (count, 1), 32,
            (x, i32(s.row), chosen, self._ones, self._zeros, y, i32(s.row), i32(s.C), i32(0),
             np.float32(NORM_EPS)),
        )  # fmt: skip

    def _copy_wanted(self, wanted: int, count: int) -> None:
        s, i32 = self.shape, np.int32
        self.driver.launch(
            "norm_rows", (count, 1), 32,
            (self._work["x"], i32(s.row), wanted, 0, 0, self._work["out"], i32(s.row), i32(s.C), i32(0),
             np.float32(0)),
        )  # fmt: skip

    def _product(
        self, x: int, x_row: int, w: int, y: int, M: int, N: int, *, act: int = NO_ACTIVATION
    ) -> None:
        s = self.shape
        part = Part(w, self._zeros, 0, y, s.H * s.N, N)
        launch_product(self.driver, "float32", Input(x, x_row, s.C), [part], M, act=act)
