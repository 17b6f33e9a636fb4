"""A model's weights in the form that the kernels read, and the arrays that a step works in.

All weights lie in one block of memory, each packed and on a cache line of its own: large blocks get large
pages from the system, which is worth some percent. Whoever holds a `PackedModel` or an array from here keeps
its memory; the kernels themselves see addresses only. Takes weights by the names of `niels_gpt.model.gpt`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from niels_gpt.kernels import WeightForm
from niels_gpt.kernels.attention import GROUP, state_floats
from niels_gpt.kernels.barrier import BARRIER_INTEGERS
from niels_gpt.kernels.gpt import Shape, Weights, Workspace
from niels_gpt.kernels.linear import FLOAT32, INT8, pack, pack_int8, padded
from niels_gpt.kernels.rope import rotary_tables
from niels_gpt.kernels.simd_ir import LANES

if TYPE_CHECKING:
    from niels_gpt.model.config import ModelConfig
    from niels_gpt.model.gpt import GPT

CACHE_LINE = 64
PACKS = {"float32": pack, "int8": pack_int8}
KINDS = {"float32": FLOAT32, "int8": INT8}


def aligned(floats: int) -> np.ndarray:
    """(floats,) float32 zeros that start on a cache line."""
    raw = np.zeros(floats + CACHE_LINE // 4, np.float32)
    start = (-raw.ctypes.data % CACHE_LINE) // 4
    return raw[start : start + floats]


class PackedModel:
    """A GPT's weights, packed: `shape` and `weights` are what the kernels take."""

    def __init__(
        self, cfg: ModelConfig, state: Mapping[str, np.ndarray], *, form: WeightForm = "float32"
    ) -> None:
        """Pack the parameters of a GPT, float32 by name; the config says how they hang together."""
        self._pack = PACKS[form]
        whole_heads = cfg.D % LANES == 0
        self.T = cfg.T
        self.shape = Shape(
            L=cfg.L, H=cfg.H, D=cfg.D, C=cfg.C, F=cfg.d_ff, V=cfg.V,
            rms=cfg.norm == "rmsnorm", gated=cfg.mlp == "swiglu",
            row=padded(cfg.C) + LANES, qkv_row=padded(3 * cfg.C) + LANES, mlp_row=padded(cfg.d_ff),
            head_row=padded(cfg.V), table_row=cfg.D if whole_heads else padded(cfg.C),
        )  # fmt: skip
        arrays = dict(self._arrays(cfg, state))
        self._memory = aligned(sum(padded(array.size) for array in arrays.values()))
        self._arrays_by_name: dict[str, np.ndarray] = {}
        used = 0
        for name, array in arrays.items():
            place = self._memory[used : used + array.size].reshape(array.shape)
            place[...] = array
            self._arrays_by_name[name] = place
            used += padded(array.size)
        self.weights = Weights(
            kind=KINDS[form],
            embedding=self._address("embedding"), layers=np.array([[self._address(f"{i}.{n}") for n in
            LAYER_PARTS] for i in range(cfg.L)], np.int64), final_scale=self._address("final_scale"),
            final_shift=self._address("final_shift"), head=self._address("head"),
            cosine=self._address("cosine"), sine=self._address("sine"), zeros=self._address("zeros"),
        )  # fmt: skip

    @property
    def may_split(self) -> bool:
        """Whether several threads can share a step: heads must be whole vectors."""
        return self.shape.D % LANES == 0

    @property
    def nbytes(self) -> int:
        """Bytes of all packed weights and tables."""
        return self._memory.nbytes

    def new_state(self, positions: int) -> tuple[np.ndarray, int]:
        """See `new_state`."""
        return new_state(self.shape, positions)

    def new_memory(self, *, rows: int, room: int, parts: int) -> StepMemory:
        """Arrays for steps of `rows` rows at most, states of `room` positions at most, `parts` threads."""
        return StepMemory(self.shape, rows=rows, room=room, parts=parts)

    def _address(self, name: str) -> int:
        return self._arrays_by_name[name].ctypes.data if name in self._arrays_by_name else 0

    def _arrays(self, cfg: ModelConfig, state: Mapping[str, np.ndarray]):
        shape = self.shape

        def vector(name: str, size: int) -> np.ndarray:
            out = np.zeros(size, np.float32)
            if name in state:
                out[: state[name].size] = state[name]
            return out

        embedding = np.zeros((cfg.V, shape.row), np.float32)
        embedding[:, : cfg.C] = state["tok_emb.weight"]
        yield "embedding", embedding
        up, gate, down = ("fc_a", "fc_g", "fc_out") if shape.gated else ("fc1", "fc_g", "fc2")
        for i in range(cfg.L):
            block = f"blocks.{i}."
            yield f"{i}.norm1", vector(f"{block}ln1.weight", shape.row)
            yield f"{i}.shift1", vector(f"{block}ln1.bias", shape.row)
            yield f"{i}.qkv", self._pack(state[f"{block}attn.qkv.weight"])
            yield f"{i}.proj", self._pack(state[f"{block}attn.proj.weight"])
            yield f"{i}.norm2", vector(f"{block}ln2.weight", shape.row)
            yield f"{i}.shift2", vector(f"{block}ln2.bias", shape.row)
            yield f"{i}.up", self._pack(state[f"{block}mlp.{up}.weight"])
            yield f"{i}.up_bias", vector(f"{block}mlp.{up}.bias", shape.mlp_row)
            if shape.gated:
                yield f"{i}.gate", self._pack(state[f"{block}mlp.{gate}.weight"])
                yield f"{i}.gate_bias", vector(f"{block}mlp.{gate}.bias", shape.mlp_row)
            yield f"{i}.down", self._pack(state[f"{block}mlp.{down}.weight"])
            yield f"{i}.down_bias", vector(f"{block}mlp.{down}.bias", shape.row)
        yield "final_scale", vector("ln_f.weight", shape.row)
        yield "final_shift", vector("ln_f.bias", shape.row)
        yield "head", self._pack(state["lm_head.weight" if not cfg.tie_embeddings else "tok_emb.weight"])
        yield from zip(
            ("cosine", "sine"), rotary_tables(cfg.T, cfg.D, cfg.rope_theta, shape.table_row), strict=True
        )
        yield "zeros", np.zeros(max(shape.row, shape.qkv_row, shape.mlp_row, shape.head_row, padded(cfg.T)))


def pack_gpt(model: GPT, form: WeightForm = "float32") -> PackedModel:
    """The packed weights of a torch model."""
    state = {name: tensor.detach().cpu().float().numpy() for name, tensor in model.state_dict().items()}
    return PackedModel(model.cfg, state, form=form)


LAYER_PARTS = (
    "norm1", "shift1", "qkv", "proj", "norm2", "shift2",
    "up", "up_bias", "gate", "gate_bias", "down", "down_bias",
)  # fmt: skip
"""In the order in which `gpt.forward` finds their addresses."""


class StepMemory:
    """The arrays of a step: at most `rows` rows, states of at most `room` positions, `parts` threads."""

    def __init__(self, shape: Shape, *, rows: int, room: int, parts: int) -> None:
        self.rows, self.room, self.parts = rows, room, parts
        sizes = [shape.row, shape.qkv_row, shape.row, shape.mlp_row, shape.mlp_row if shape.gated else 0]
        # One vector more: the last head of a row may spill over its end.
        shared = [aligned(rows * size + LANES) for size in sizes]
        normed = [aligned(rows * shape.row) for _ in range(parts)]
        scores = [aligned(GROUP * padded(room) + GROUP) for _ in range(parts)]
        barrier = np.zeros(BARRIER_INTEGERS, np.int64)
        self._arrays = [*shared, *normed, *scores, barrier]
        addresses = [array.ctypes.data for array in shared]
        self.work = Workspace(
            *addresses,
            normed=np.array([array.ctypes.data for array in normed], np.int64),
            scores=np.array([array.ctypes.data for array in scores], np.int64),
            barrier=barrier.ctypes.data,
            stop=np.zeros(1, np.int64),
        )


def new_state(shape: Shape, positions: int) -> tuple[np.ndarray, int]:
    """(keys and values of all layers, room in whole vectors) for a sequence of at most `positions`."""
    room = padded(positions)
    return aligned(shape.L * state_floats(shape.H, shape.D, room)), room
