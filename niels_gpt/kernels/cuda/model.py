"""A packed transformer on a GPU: its weights, the workspace of a step, and the launches of a forward pass.

The weights are the CPU's packed block of memory, copied as it is; addresses in it are moved to the copy. So
whatever the CPU kernels can pack can be read here, and both read the same numbers. The launches follow
`niels_gpt.kernels.gpt.forward` operation by operation. Which tile computes a product is a matter of speed
alone.

L layers, H heads of queries, KV heads of keys and values, D head width, C width, F MLP width, V vocabulary, M
rows of a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from niels_gpt.kernels import UnsupportedFormError
from niels_gpt.kernels.cuda.driver import Argument, Driver
from niels_gpt.kernels.gpt_layout import EIGHT_BITS, FLOATS, FOUR_BITS, IN_TURN, ONE_NORM, PLACES
from niels_gpt.kernels.gpt_packing import PackedModel
from niels_gpt.kernels.integer_layout import GROUP, OFFSET

PAGE = 16
"""Positions of a page."""
WIDEST_HEAD = 256
SCORES = 4096
"""Scores of one row that shared memory holds; of longer rows they are computed twice."""
MOST_QUERIES, MOST_QUERY_BLOCKS, STAGED_PAGES = 16, 128, 8
"""Of `attend_rows`: queries of a block, those times blocks of 16 channels, and pages in shared memory."""
PORTION = 32  # k of a portion, see linear.cu
FEW_ROWS, FEW_STAGES = 8, 8
FLIP = np.int32(0x80808080 - 2**32 if OFFSET else 0)
"""What makes packed eight-bit integers signed ones, four at a time."""
INTEGERS = {FOUR_BITS: "four_bits", EIGHT_BITS: "eight_bits"}
STORED_BYTES = {"float32": 4, "int8": 1, "bf16": 2, "f16": 2}
NO_ACTIVATION = -1


class Tile(NamedTuple):
    """How a kernel of linear.cu divides a product; `speed` is relative, from what it reads per operation."""

    rows: int
    blocks: int
    """Packed blocks of 16 columns."""
    threads: int
    stages: int
    speed: float


TILES = {
    "some_16": Tile(16, 2, 128, 6, 0.4),
    "some_32": Tile(32, 2, 128, 6, 0.6),
    "some_64": Tile(64, 2, 256, 6, 0.7),
    "wide_64": Tile(64, 8, 256, 3, 0.85),
    "many": Tile(128, 8, 256, 0, 0.9),
}
"""For more than `FEW_ROWS` rows."""


class Part(NamedTuple):
    """Addresses of a matrix of N columns, of where its chains begin, and of its result; strides in floats."""

    w: int
    start: int
    start_row: int
    """0 if all rows start from the same values."""
    y: int
    y_row: int
    N: int
    bias: int = 0
    """Added to the start values, or 0."""

    @property
    def blocks(self) -> int:
        """Packed blocks of 16 columns."""
        return -(-self.N // PAGE)


NO_PART = Part(0, 0, 0, 0, 0, 0)


class Input(NamedTuple):
    """Rows that a product reads, K floats of each; it norms them first if there is a scale."""

    x: int
    x_row: int
    K: int
    chosen: int = 0
    """The address of the rows' numbers, or 0 for all in order."""
    scale: int = 0
    shift: int = 0
    rms: bool = False
    eps: float = 0.0


@dataclass(frozen=True)
class Rows:
    """Addresses of the rows of a step, int32 each, and how many there are."""

    ids: int
    positions: int
    slots: int
    count: int
    run: int = 1
    """Rows of one sequence, at most: such rows are neighbours. A wrong number costs only time."""


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
        # In whole pieces of 16 bytes, as integer.cu reads them.
        self._record_row = -(-groups * (2 * GROUP + 8) // 16) * 16 if self.kind == "groups" else 0
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
            x = self._normed(layer, "attn_in", M, s.H * s.D + 2 * s.KV * s.D)
            parts = [
                self._part(layer, name, work[name], row, width)
                for name, row, width in (
                    ("q", s.q_row, s.H * s.D),
                    ("k", s.kv_row, s.KV * s.D),
                    ("v", s.kv_row, s.KV * s.D),
                )
            ]
            self._multiply(x, parts, [layer[f"{name}_code"] for name in "qkv"], M)
            self._attention(rows, pages, layer, number)
            if s.parallel == ONE_NORM:
                self._mlp_up(layer, x, M)
            self._attention_out(layer, M)
            if s.parallel != ONE_NORM:
                self._mlp_up(layer, self._normed(layer, "mlp_in", M, s.F * (1 + s.gated)), M)
            up = self._read(Input(work["up"], s.mlp_row, s.F), M)
            self._leave(layer, "down", up, "mlp_out", M, begun=s.parallel != IN_TURN)
        if count == 0:
            return
        x = self._norm_for(self._final_norm, s.V, count, wanted)
        head = Part(self._head, self._head_bias, 0, logits, s.head_row, s.V)
        self._multiply(x, [head], [self._head_code], count)
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

    def _normed(self, layer: dict[str, int], place: str, M: int, N: int) -> Input:
        return self._norm_for((layer[place], layer[f"{place}_shift"]), N, M)

    def _norm_for(self, norm: tuple[int, int], N: int, M: int, chosen: int = 0) -> Input:
        """Return the rows of the residual stream, normed, as products of N columns read them.

        A product of few rows norms them itself, unless so many of its blocks would that a launch costs less.
        """
        s, x, (scale, shift) = self.shape, self._work["x"], norm
        itself = self._record_row == 0 and few_bytes(self.driver, self.kind, M, s.C) > 0
        if not scale and not chosen:
            return self._read(Input(x, s.row, s.C), M)
        blocks = -(-N // (2 * PAGE))
        if itself and blocks <= 2 * self.driver.processors:
            return Input(x, s.row, s.C, chosen, scale, shift, s.rms, float(s.norm_eps))
        self._norm(x, chosen, scale, shift, self._work["normed"], M)
        return self._read(Input(self._work["normed"], s.row, s.C), M)

    def _part(self, layer: dict[str, int], name: str, y: int, y_row: int, N: int) -> Part:
        return Part(layer[name], layer[f"{name}_bias"] or self._zeros, 0, y, y_row, N)

    def _multiply(
        self, x: Input, parts: Sequence[Part], codes: Sequence[int], M: int, *, gated: bool = False,
        act: int = NO_ACTIVATION,
    ) -> None:  # fmt: skip
        """Multiply rows by matrices, in one launch if they are stored alike; activations need that."""
        if len(set(codes)) > 1:
            for part, code in zip(parts, codes, strict=True):
                self._multiply(x, [part], [code], M)
            return
        code = codes[0]
        if code not in INTEGERS:
            kind = "float32" if code == FLOATS and self.kind == "groups" else self.kind
            launch_product(self.driver, kind, x, parts, M, gated=gated, act=act)
            return
        fours = -(-M // 4)
        rows = 1 if M == 1 else 4 if fours <= self.driver.processors else 8
        warps = min(4, -(-M // rows))
        i32 = np.int32
        self.driver.launch(
            f"{INTEGERS[code]}_{rows}", (_tiles(parts, 2, gated=gated), -(-M // (rows * warps))), 32 * warps,
            (self._work["records"], i32(self._record_row), FLIP,
             *_arguments(parts, gated=gated, act=act), i32(M), i32(x.K // GROUP)),
        )  # fmt: skip

    def _read(self, x: Input, M: int) -> Input:
        """Make records of rows, which products of integers read instead of them; return the rows."""
        groups, i32 = x.K // GROUP, np.int32
        if self._record_row and groups:
            self.driver.launch(
                "quantise", (M, -(-groups // 8)), 256,
                (x.x, i32(x.x_row), self._work["records"], i32(self._record_row), i32(groups)),
            )  # fmt: skip
        return x

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
        asked = (work["q"], i32(s.q_row), work["mixed"], i32(s.mixed_row), rows.positions, rows.slots, *where,
                 i32(window), np.float32(s.score_cap))  # fmt: skip
        sizes = (i32(s.H), i32(s.KV), i32(s.D))
        tile, shared = self._rows_together(rows.run, window)
        if tile:
            queries = _fours(tile * s.H // s.KV)
            room = self._seen(window, tile)
            self.driver.launch(
                "attend_rows", (rows.count, s.KV), 128,
                (*asked, i32(room), *sizes, i32(rows.count), i32(tile), i32(queries)), shared=shared,
            )  # fmt: skip
            return
        room = min(SCORES, self._seen(window, 1))
        self.driver.launch(
            "attend", (rows.count, s.H), 128, (*asked, i32(room), *sizes), shared=4 * room
        )  # fmt: skip

    def _seen(self, window: int, rows: int) -> int:
        """Return how many positions so many neighbouring rows see, at most, in whole pages."""
        seen = min(window + rows + PAGE, self.T) if window else self.T
        return -(-seen // PAGE) * PAGE

    def _rows_together(self, run: int, window: int) -> tuple[int, int]:
        """Return how many rows attend together and the shared memory for it; 0 if each does for itself."""
        s, blocks = self.shape, -(-self.shape.D // PAGE)
        group = s.H // s.KV
        tile = min(run, max(1, MOST_QUERIES // group))
        while tile * group > 1:
            queries = _fours(tile * group)
            shared = 4 * (
                queries * (_fours(s.D) + self._seen(window, tile) + 1) + STAGED_PAGES * blocks * 272
            )
            if queries * blocks <= MOST_QUERY_BLOCKS and shared <= self.driver.shared_bytes:
                return tile, shared
            tile //= 2
        return 0, 0

    def _attention_out(self, layer: dict[str, int], M: int) -> None:
        s, work = self.shape, self._work
        mixed = self._read(Input(work["mixed"], s.mixed_row, s.H * s.D), M)
        if s.parallel == IN_TURN:
            self._leave(layer, "proj", mixed, "attn_out", M, begun=False)
        else:
            part = self._part(layer, "proj", work["added"], s.row, s.C)
            self._multiply(mixed, [part], [layer["proj_code"]], M)

    def _mlp_up(self, layer: dict[str, int], x: Input, M: int) -> None:
        s = self.shape
        names = ("up", "gate") if s.gated else ("up",)
        parts = [self._part(layer, name, self._work[name], s.mlp_row, s.F) for name in names]
        codes = [layer[f"{name}_code"] for name in names]
        if len(set(codes)) == 1:
            self._multiply(x, parts, codes, M, gated=s.gated, act=s.mlp)
            return
        self._multiply(x, parts, codes, M)
        up, gate = self._work["up"], self._work["gate"]
        self._elementwise("activate", M, s.F, up, gate, np.int32(s.mlp_row), np.int32(s.mlp), np.int32(s.F))

    def _leave(self, layer: dict[str, int], name: str, x: Input, place: str, M: int, *, begun: bool) -> None:
        """Multiply rows and add the result to the residual stream; `begun`: to what attention adds to it."""
        s, work = self.shape, self._work
        y = work["x"] if s.from_residual else work["added"]
        part = self._part(layer, name, y, s.row, s.C)
        if s.from_residual or begun:
            part = part._replace(start=y, start_row=s.row, bias=layer[f"{name}_bias"])
        self._multiply(x, [part], [layer[f"{name}_code"]], M)
        if s.from_residual:
            return
        if layer[place]:
            self._norm(y, 0, layer[place], layer[f"{place}_shift"], work["spare"], M)
            y = work["spare"]
        self._elementwise(
            "add_scaled", M, s.C, work["x"], y, np.int32(s.row), np.float32(s.residual_scale), np.int32(s.C)
        )


def launch_product(
    driver: Driver, kind: str, x: Input, parts: Sequence[Part], M: int, *, gated: bool = False,
    act: int = NO_ACTIVATION,
) -> None:  # fmt: skip
    """Launch the products of M rows with up to three matrices.

    Args:
        driver: The GPU.
        kind: The form of the weights.
        x: The rows.
        parts: The matrices.
        M: The number of rows.
        gated: Whether the second matrix is the gate of the first: one result, act(gate) * up.
        act: The activation of the results.

    """
    tile, blocks, threads, shared = choose_tile(driver, kind, M, x.K, parts, gated=gated)
    if (x.scale or x.chosen) and tile not in {"one", "few"}:
        raise ValueError("only products of few rows choose and norm them")
    i32 = np.int32
    driver.launch(
        f"{tile}_{kind}", blocks, threads,
        (x.x, i32(x.x_row), x.chosen, x.scale, x.shift, i32(x.rms), np.float32(x.eps),
         *_arguments(parts, gated=gated, act=act), i32(M), i32(x.K)),
        shared=shared,
    )  # fmt: skip


def _fours(count: int) -> int:
    return -(-count // 4) * 4


def _arguments(parts: Sequence[Part], *, gated: bool, act: int) -> tuple[Argument, ...]:
    """Return PARTS_ARGUMENTS of parts.cuh."""
    i32, out = np.int32, list[Argument]()
    for part in (*parts, NO_PART, NO_PART)[:3]:
        out += [part.w, part.start, i32(part.start_row), part.bias, part.y, i32(part.y_row), i32(part.N)]
    return (*out, i32(gated), i32(act))


def _tiles(parts: Sequence[Part], blocks: int, *, gated: bool) -> int:
    """Return how many tiles of so many packed blocks the columns fill."""
    return -(-(2 * parts[0].blocks if gated else sum(part.blocks for part in parts)) // blocks)


def _portion_bytes(kind: str, blocks: int) -> int:
    stored = STORED_BYTES[kind]
    return blocks * stored * (PORTION * PAGE + max(PAGE, 16 // stored))


def few_bytes(driver: Driver, kind: str, M: int, K: int) -> int:
    """Return the shared memory of a product of few rows, or 0 if these rows are too many for that."""
    shared = FEW_STAGES * _portion_bytes(kind, 2) + 4 * M * -(-K // PORTION) * PORTION
    return shared if M <= FEW_ROWS and shared <= driver.shared_bytes else 0


def choose_tile(
    driver: Driver, kind: str, M: int, K: int, parts: Sequence[Part], *, gated: bool
) -> tuple[str, tuple[int, int], int, int]:
    """Return the kernel, its grid, the threads of a block and its shared memory; a matter of speed alone."""
    shared, columns = few_bytes(driver, kind, M, K), _tiles(parts, 2, gated=gated)
    if shared and M > 1:
        return "few", (columns, 1), 128, shared
    if shared:
        both = shared + FEW_STAGES * _portion_bytes(kind, 2)
        if columns <= 2 * driver.processors or both > driver.shared_bytes:
            return "one", (columns, 1), 32, shared
        return "one", (-(-columns // 2), 1), 64, both
    best, least = "", 0.0
    for name, tile in TILES.items():
        if name == "many" and K % PAGE:
            continue
        blocks = _tiles(parts, tile.blocks, gated=gated) * -(-M // tile.rows)
        needed = -(-blocks // driver.processors) * tile.rows * tile.blocks / tile.speed
        if not best or needed < least:
            best, least = name, needed
    tile = TILES[best]
    portion = _portion_bytes(kind, tile.blocks) + 4 * tile.rows * (PORTION + 4)
    shared = tile.stages * portion + 8 * tile.blocks if tile.stages else 0
    return best, (_tiles(parts, tile.blocks, gated=gated), -(-M // tile.rows)), tile.threads, shared


def check_supported(packed: PackedModel) -> None:
    """Raise `UnsupportedFormError` for a packed model that the GPU kernels do not compute."""
    if packed.shape.D > WIDEST_HEAD:
        raise UnsupportedFormError(f"the GPU kernels do not compute heads wider than {WIDEST_HEAD}")
