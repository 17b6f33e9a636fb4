"""A packed transformer on a GPU: its weights, the workspace of a step, and the launches of a forward pass.

The weights are the CPU's packed block of memory, copied as it is; addresses in it are moved to the copy. So
whatever the CPU kernels can pack can be read here, and both read the same numbers. The launches follow
`niels_gpt.kernels.gpt.forward` operation by operation. Which tile computes a product is a matter of speed
alone.

L layers, H heads of queries, KV heads of keys and values, D head width, C width, F MLP width, V vocabulary, M
rows of a step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from niels_gpt.kernels import UnsupportedFormError
from niels_gpt.kernels.cuda.driver import Argument, Driver
from niels_gpt.kernels.gpt_layout import IN_TURN, ONE_NORM, PLACES
from niels_gpt.kernels.gpt_packing import PackedModel
from niels_gpt.kernels.integer_rows import GROUP
from niels_gpt.kernels.integer_weights import OFFSET
from niels_gpt.kernels.matrices import EIGHT_BITS, FLOATS, FOUR_BITS

PAGE = 16
"""Positions of a page."""
WIDEST_HEAD = 256
SCORES = 4096
"""Scores of one row that shared memory holds; of longer rows they are computed twice."""
PORTION, COLUMNS = 32, 32  # k of a portion and columns of a block, see linear.cu
FEW_STAGES, SOME_STAGES = 8, 6
FLIP = np.int32(0x80808080 - 2**32 if OFFSET else 0)
"""What makes packed eight-bit integers signed ones, four at a time."""
INTEGERS = {FOUR_BITS: "four_bits", EIGHT_BITS: "eight_bits"}
STORED_BYTES = {"float32": 4, "int8": 1, "bf16": 2, "f16": 2}


@dataclass(frozen=True)
class Rows:
    """Addresses of the rows of a step, int32 each, and how many there are."""

    ids: int
    positions: int
    slots: int
    count: int


@dataclass(frozen=True)
class Pages:
    """Addresses of the pages of keys and values, and of each slot's table of pages, (slots, most) int32."""

    memory: int
    table: int
    most: int
    """Pages of a slot, at most."""


class CudaModel:
    """A transformer whose weights are on a GPU."""

    page_positions = PAGE

    def __init__(self, packed: PackedModel, driver: Driver) -> None:
        """Copy the weights to the GPU.

        Raises:
            UnsupportedFormError: The GPU kernels do not compute this form.
            MemoryError: The weights do not fit.

        """
        check_supported(packed)
        self.shape, self.T, self.kind = packed.shape, packed.T, packed.kind
        self.driver = driver
        self._memory = driver.allocate(packed.memory.nbytes)
        driver.upload(self._memory, packed.memory)
        moved = self._memory - packed.memory.ctypes.data

        def place(address: int) -> int:
            return address + moved if address else 0

        w = packed.weights
        self._embedding, self._embedding_code = place(w.embedding), w.embedding_code
        self._learned, self._zeros = place(w.positions), place(w.zeros)
        self._embed_norm = place(w.embed_norm), place(w.embed_shift)
        self._final_norm = place(w.final_scale), place(w.final_shift)
        self._head, self._head_bias = place(w.head), place(w.head_bias) or self._zeros
        self._head_code = w.head_code
        numbers = {"window", *(name for name in PLACES if name.endswith("_code"))}
        self._layers = [
            {
                name: int(value) if name in numbers else place(int(value))
                for name, value in zip(PLACES, layer, strict=True)
            }
            for layer in w.layers
        ]
        shape = self.shape
        padded_head = -(-shape.D // PAGE) * PAGE
        self._layer_floats = shape.KV * PAGE * (shape.D + padded_head)
        self.page_floats = shape.L * self._layer_floats
        """Floats of a page: the keys and values of `PAGE` positions in all layers."""
        groups = -(-max(shape.C, shape.H * shape.D, shape.F) // GROUP)
        self._record_row = groups * (2 * GROUP + 8) if self.kind == "groups" else 0
        self._rows = 0
        self._work: dict[str, int] = {}

    @property
    def row_bytes(self) -> int:
        """The bytes of workspace for each row of a step."""
        return 4 * sum(self._sizes().values())

    def _sizes(self) -> dict[str, int]:
        s = self.shape
        return {
            "x": s.row, "normed": s.row, "added": 0 if s.from_residual else s.row, "spare": s.row,
            "q": s.q_row, "k": s.kv_row, "v": s.kv_row, "mixed": s.mixed_row, "up": s.mlp_row,
            "gate": s.mlp_row if s.gated else 0, "records": self._record_row // 4,
        }  # fmt: skip

    def reserve(self, rows: int) -> bool:
        """Allocate the workspace for steps of up to `rows` rows; return whether addresses changed."""
        if rows <= self._rows:
            return False
        for address in self._work.values():
            self.driver.free(address)
        self._work, self._rows = {}, 0
        for name, size in self._sizes().items():
            if size:
                # One vector more: tiles copy whole vectors, also beyond the last row.
                self._work[name] = self.driver.allocate(4 * (rows * size + PAGE))
        self._rows = rows
        return True

    def close(self) -> None:
        """Free the weights and the workspace."""
        for address in (self._memory, *self._work.values()):
            self.driver.free(address)
        self._work, self._rows = {}, 0

    def forward(self, rows: Rows, pages: Pages, wanted: int, count: int, logits: int) -> None:
        """Run rows through the model; the logits of row wanted[i] become row i of `logits`.

        Args:
            rows: What to read; the workspace must be reserved.
            pages: Where the keys and values of all sequences are.
            wanted: The address of the wanted rows' numbers, int32.
            count: How many are wanted.
            logits: The address of the result, `head_row` floats a row.

        """
        s, M, work = self.shape, rows.count, self._work
        self._embed(rows)
        for number, layer in enumerate(self._layers):
            self._norm(work["x"], 0, layer["attn_in"], layer["attn_in_shift"], work["normed"], M)
            self._quantise(work["normed"], s.row, s.C, M)
            for name, width, row in (
                ("q", s.H * s.D, s.q_row),
                ("k", s.KV * s.D, s.kv_row),
                ("v", s.KV * s.D, s.kv_row),
            ):
                self._product(work["normed"], s.row, layer, name, work[name], row, M, width, s.C)
            self._attention(rows, pages, layer, number)
            if s.parallel == ONE_NORM:
                self._mlp_up(layer, M)
            self._attention_out(layer, M)
            if s.parallel != ONE_NORM:
                self._norm(work["x"], 0, layer["mlp_in"], layer["mlp_in_shift"], work["normed"], M)
                self._quantise(work["normed"], s.row, s.C, M)
                self._mlp_up(layer, M)
            self._quantise(work["up"], s.mlp_row, s.F, M)
            self._leave(layer, "down", work["up"], s.mlp_row, s.F, "mlp_out", M, begun=s.parallel != IN_TURN)
        if count == 0:
            return
        self._norm(work["x"], wanted, *self._final_norm, work["normed"], count)
        self._quantise(work["normed"], s.row, s.C, count)
        self._multiply(
            self._head_code, work["normed"], s.row, self._head, self._head_bias, 0, logits, s.head_row, count,
            s.V, s.C,
        )  # fmt: skip
        if s.head_scale != 1 or s.head_cap != 0:
            self._elementwise(
                "finish_logits", count, s.V,
                logits, np.int32(s.head_row), np.float32(s.head_scale), np.float32(s.head_cap), np.int32(s.V),
            )  # fmt: skip

    def _embed(self, rows: Rows) -> None:
        s, work = self.shape, self._work
        self.driver.launch(
            "embed", (rows.count, 1), 128,
            (rows.ids, rows.positions, self._embedding, np.int32(self._embedding_code), FLIP, self._learned,
             np.float32(s.embed_scale), work["x"], np.int32(s.row), np.int32(s.C)),
        )  # fmt: skip
        if self._embed_norm[0]:
            self._norm(work["x"], 0, *self._embed_norm, work["x"], rows.count)

    def _norm(self, x: int, chosen: int, scale: int, shift: int, y: int, M: int) -> None:
        s = self.shape
        row = np.int32(s.row)
        self.driver.launch(
            "norm_rows", (M, 1), 32,
            (x, row, chosen, scale, shift, y, row, np.int32(s.C), np.int32(s.rms), np.float32(s.norm_eps)),
        )  # fmt: skip

    def _elementwise(self, kernel: str, M: int, width: int, *arguments: Argument) -> None:
        self.driver.launch(kernel, (M, -(-width // 256)), 256, arguments)

    def _product(
        self, x: int, x_row: int, layer: dict[str, int], name: str, y: int, y_row: int, M: int, N: int, K: int
    ) -> None:
        bias = layer[f"{name}_bias"] or self._zeros
        self._multiply(layer[f"{name}_code"], x, x_row, layer[name], bias, 0, y, y_row, M, N, K)

    def _multiply(
        self, code: int, x: int, x_row: int, w: int, start: int, start_row: int, y: int, y_row: int, M: int,
        N: int, K: int,
    ) -> None:  # fmt: skip
        if code not in INTEGERS:
            kind = "float32" if code == FLOATS and self.kind == "groups" else self.kind
            launch_product(self.driver, kind, x, x_row, w, start, start_row, y, y_row, M, N, K)
            return
        each, warps = (1, 1) if M == 1 else (4, min(4, -(-M // 4)))
        i32 = np.int32
        self.driver.launch(
            f"{INTEGERS[code]}_{each}", (-(-N // COLUMNS), -(-M // (each * warps))), 32 * warps,
            (self._work["records"], i32(self._record_row), w, FLIP, start, i32(start_row), y, i32(y_row),
             i32(M), i32(N), i32(K // GROUP)),
        )  # fmt: skip

    def _quantise(self, x: int, x_row: int, K: int, M: int) -> None:
        """Make records of rows, which products of integers read instead of them."""
        groups, i32 = K // GROUP, np.int32
        if self._record_row and groups:
            self.driver.launch(
                "quantise", (M, -(-groups // 8)), 256,
                (x, i32(x_row), self._work["records"], i32(self._record_row), i32(groups)),
            )  # fmt: skip

    def _attention(self, rows: Rows, pages: Pages, layer: dict[str, int], number: int) -> None:
        s, work = self.shape, self._work
        offset, i32 = number * self._layer_floats, np.int32
        where = (pages.memory, self.page_floats, offset, pages.table, i32(pages.most))
        self.driver.launch(
            "remember", (rows.count, 1), 128,
            (work["q"], i32(s.q_row), work["k"], work["v"], i32(s.kv_row), layer["cosine"], layer["sine"],
             i32(s.table_row), layer["q_norm"], layer["q_shift"], layer["k_norm"], layer["k_shift"],
             i32(s.qk_norm), i32(s.rms), np.float32(s.norm_eps), np.float32(s.score_factor),
             np.float32(s.qk_scale), rows.positions, rows.slots, *where, i32(s.H), i32(s.KV), i32(s.D)),
        )  # fmt: skip
        window, seen = layer["window"], self.T
        room = min(SCORES, -(-(min(window + PAGE, seen) if window else seen) // PAGE) * PAGE)
        self.driver.launch(
            "attend", (rows.count, s.H), 128,
            (work["q"], i32(s.q_row), work["mixed"], i32(s.mixed_row), rows.positions, rows.slots, *where,
             i32(window), np.float32(s.score_cap), i32(room), i32(s.H), i32(s.KV), i32(s.D)),
            shared=4 * room,
        )  # fmt: skip

    def _attention_out(self, layer: dict[str, int], M: int) -> None:
        s, work = self.shape, self._work
        self._quantise(work["mixed"], s.mixed_row, s.H * s.D, M)
        if s.parallel == IN_TURN:
            self._leave(layer, "proj", work["mixed"], s.mixed_row, s.H * s.D, "attn_out", M, begun=False)
        else:
            self._product(work["mixed"], s.mixed_row, layer, "proj", work["added"], s.row, M, s.C, s.H * s.D)

    def _mlp_up(self, layer: dict[str, int], M: int) -> None:
        s, work = self.shape, self._work
        for name in ("up", "gate") if s.gated else ("up",):
            self._product(work["normed"], s.row, layer, name, work[name], s.mlp_row, M, s.F, s.C)
        gate = work["gate"] if s.gated else 0
        self._elementwise(
            "activate", M, s.F, work["up"], gate, np.int32(s.mlp_row), np.int32(s.mlp), np.int32(s.F)
        )

    def _leave(
        self, layer: dict[str, int], name: str, x: int, x_row: int, K: int, place: str, M: int, *, begun: bool
    ) -> None:
        """Multiply rows and add the result to the residual stream; `begun`: to what attention adds to it."""
        s, work, bias = self.shape, self._work, layer[f"{name}_bias"]
        row, C = np.int32(s.row), np.int32(s.C)
        y = work["x"] if s.from_residual else work["added"]
        if s.from_residual or begun:
            if bias:
                self._elementwise("add_bias", M, s.C, y, row, bias, C)
            start, start_row = y, s.row
        else:
            start, start_row = bias or self._zeros, 0
        code = layer[f"{name}_code"]
        self._multiply(code, x, x_row, layer[name], start, start_row, y, s.row, M, s.C, K)
        if s.from_residual:
            return
        if layer[place]:
            self._norm(y, 0, layer[place], layer[f"{place}_shift"], work["spare"], M)
            y = work["spare"]
        self._elementwise("add_scaled", M, s.C, work["x"], y, row, np.float32(s.residual_scale), C)


def launch_product(
    driver: Driver, kind: str, x: int, x_row: int, w: int, start: int, start_row: int, y: int, y_row: int,
    M: int, N: int, K: int,
) -> None:  # fmt: skip
    """Launch y = start + x w for M rows of K floats and packed weights of N columns; strides in floats."""
    tile, blocks, shared = _tile(driver, kind, M, N, K)
    numbers = (np.int32(y_row), np.int32(M), np.int32(N), np.int32(K))
    driver.launch(
        f"{tile}_{kind}", blocks, 256,
        (x, np.int32(x_row), w, start, np.int32(start_row), y, *numbers), shared=shared,
    )  # fmt: skip


def _tile(driver: Driver, kind: str, M: int, N: int, K: int) -> tuple[str, tuple[int, int], int]:
    """Return the kernel, its grid and its shared memory; a matter of speed alone."""
    stored = STORED_BYTES[kind]
    portion = 2 * stored * (PORTION * PAGE + max(PAGE, 16 // stored))
    columns = -(-N // COLUMNS)
    few = 1 if M == 1 else 8
    shared = FEW_STAGES * portion + 4 * M * -(-K // PORTION) * PORTION
    if few >= M and shared <= driver.shared_bytes:
        return f"few_{few}", (columns, 1), shared
    large = (-(-N // 128), -(-M // 128))
    if K % PAGE == 0 and large[0] * large[1] >= 1.5 * driver.processors:
        return "many", large, 0
    R = 32 if M <= 32 or -(-M // 64) * columns < driver.processors else 64
    return f"some_{R}", (columns, -(-M // R)), SOME_STAGES * (portion + 4 * R * (PORTION + 4))


def check_supported(packed: PackedModel) -> None:
    """Raise `UnsupportedFormError` for a packed model that the GPU kernels do not compute."""
    if packed.shape.D > WIDEST_HEAD:
        raise UnsupportedFormError(f"the GPU kernels do not compute heads wider than {WIDEST_HEAD}")
