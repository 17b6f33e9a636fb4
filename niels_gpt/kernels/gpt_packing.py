"""Pack a transformer's weights for the kernels, and allocate the arrays of a step.

All weights are in one block of memory, each packed and aligned to a cache line. The system gives large pages
to large blocks, which saves a few percent of time. Each weight is packed directly into its place, so packing
needs no more memory than the result and one matrix. A `PackedModel` and the arrays made here own their
memory; the kernels receive addresses only and do not keep it alive.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from niels_gpt.kernels import (
    INTEGER_VERSION,
    KERNEL_VERSION,
    GroupForm,
    UnsupportedFormError,
    WeightForm,
    packed_cache,
)
from niels_gpt.kernels.attention import (
    HEAD_NORM,
    NORM_AFTER,
    ROW_NORM,
    group_floats,
    group_positions,
    state_floats,
)
from niels_gpt.kernels.barrier import BARRIER_INTEGERS
from niels_gpt.kernels.gpt import (
    FEW_ROWS,
    GELU,
    GELU_TANH,
    IN_TURN,
    ONE_NORM,
    PLACES,
    RELU,
    RELU_SQUARED,
    SILU,
    TWO_NORMS,
    Rows,
    Shape,
    Weights,
    Workspace,
    attention,
)
from niels_gpt.kernels.integer_rows import GROUP, record_bytes
from niels_gpt.kernels.integer_weights import OFFSET
from niels_gpt.kernels.jit import address_of
from niels_gpt.kernels.linear import padded
from niels_gpt.kernels.matrices import ROWS, Products, products
from niels_gpt.kernels.matrix_packing import CACHE_LINE, KIND_OF, MatrixPlan, Part, kind_of
from niels_gpt.kernels.rope import rotary_tables
from niels_gpt.kernels.simd_ir import LANES
from niels_gpt.model.form import Form, Rope
from niels_gpt.model.gpt_form import form_of, weights_from_state
from niels_gpt.model.weights import Weight, dequantise, shapes_of

if TYPE_CHECKING:
    from niels_gpt.model.config import ModelConfig
    from niels_gpt.model.gpt import GPT

ACTIVATIONS = {"gelu": GELU, "gelu_tanh": GELU_TANH, "silu": SILU, "relu": RELU, "relu2": RELU_SQUARED}
QK_NORMS = {"": 0, "head": HEAD_NORM, "row": ROW_NORM, "after": NORM_AFTER}
PARALLELS = {"": IN_TURN, "two": TWO_NORMS, "one": ONE_NORM}
MATRICES = ("q", "k", "v", "proj", "up", "gate", "down")


def aligned(floats: int) -> np.ndarray:
    """Allocate (floats,) float32 zeros that start on a cache line."""
    raw = np.zeros(floats + CACHE_LINE // 4, np.float32)
    start = (-raw.ctypes.data % CACHE_LINE) // 4
    return raw[start : start + floats]


class PackedModel:
    """A transformer's weights, packed: `shape` and `weights` are what the kernels take.

    `version` is that of the arithmetic, a number of `KERNEL_HISTORY`.
    """

    def __init__(self, plan: _Plan, content: str | None) -> None:
        """Pack the planned arrays into one block of memory, or map the file of an earlier time."""
        self.shape, self.T, self.kind = plan.shape, plan.form.T, plan.kind
        self.version = INTEGER_VERSION if plan.kind == "groups" else KERNEL_VERSION
        compiled, self._products = products(plan.kind)
        found: dict[str, int] = {}
        used = 0
        for name, part in plan.parts.items():
            found[name] = used
            used += padded(part.floats)
        self._memory = _filled(plan, found, used, content)
        found = {name: self._memory.ctypes.data + 4 * place for name, place in found.items()}
        at = {name: found.get(name, 0) for name in Weights._fields}
        layers = [
            [plan.numbers.get(f"{i}.{place}", found.get(f"{i}.{place}", 0)) for place in PLACES]
            for i in range(self.shape.L)
        ]
        for i, layer in enumerate(layers):
            for place in ("cosine", "sine"):
                layer[PLACES.index(place)] = found.get(f"{place} {plan.numbers[f'{i}.kind']}", 0)
        at |= {"head": at["head"] or at["embedding"], "layers": np.array(layers, np.int64)}
        codes = {name: plan.numbers[name] for name in ("embedding_code", "head_code")}
        self.weights = Weights(**{**at, **codes, "products": compiled, "attention": attention_address()})

    @property
    def may_split(self) -> bool:
        """Whether several threads can share a step: heads must be whole vectors."""
        return self.shape.D % LANES == 0

    @property
    def nbytes(self) -> int:
        """The bytes of all packed weights and tables."""
        return self._memory.nbytes

    @property
    def memory(self) -> np.ndarray:
        """All packed weights and tables, float32; the addresses of `weights` point into it."""
        return self._memory

    @property
    def token_bytes(self) -> int:
        """The bytes of one position's keys and values."""
        return 4 * self.shape.L * state_floats.py_func(self.shape.KV, self.shape.D, 1)

    def new_state(self, positions: int) -> tuple[np.ndarray, int]:
        """Allocate the state of one sequence; see the function `new_state`."""
        return new_state(self.shape, positions)

    def new_memory(self, *, rows: int, room: int, parts: int) -> StepMemory:
        """Allocate arrays for up to `rows` rows, states of up to `room` positions, `parts` threads."""
        return StepMemory(self.shape, rows=rows, room=room, parts=parts)


def pack_form(
    form: Form,
    weights: Mapping[str, Weight],
    weight_form: GroupForm = "stored",
    *,
    from_residual: bool = False,
    content: str | None = None,
) -> PackedModel:
    """Pack a model that a form describes, from weights by the names of `niels_gpt.model.weights`.

    Args:
        form: what the model computes.
        weights: its arrays.
        weight_form: "stored" for matrices as they are, or a form that all are converted to; for "q8" and
            "q4", matrices that already are integers in groups stay unchanged.
        from_residual: whether products that end in the residual stream start from its values.
        content: a digest of form and weights, to keep the packed arrays of a large model on disk by; None
            keeps nothing.

    Raises:
        UnsupportedFormError: The kernels do not support the form.
        ValueError: A weight is missing, has a wrong shape, or cannot be held by the weight form.

    """
    check_supported(form)
    for name, shape in shapes_of(form).items():
        if name not in weights:
            raise ValueError(f"the weights lack {name!r}, expected one of shape {shape}")
        if tuple(weights[name].shape) != shape:
            raise ValueError(f"the weight {name!r} has shape {tuple(weights[name].shape)}, expected {shape}")
    return PackedModel(_Plan(form, weights, weight_form, from_residual=from_residual), content)


def _filled(plan: _Plan, places: Mapping[str, int], floats: int, content: str | None) -> np.ndarray:
    """Return (floats,) float32 with the planned arrays at their places."""
    path = None
    if content is not None and 4 * floats >= packed_cache.LEAST_BYTES:
        arrays = [(name, part.floats) for name, part in plan.parts.items()]
        path = packed_cache.packed_path(content, plan.kind, OFFSET, sorted(plan.numbers.items()), arrays)
        mapped = packed_cache.load_packed(path, floats)
        if mapped is not None:
            return mapped
    memory = aligned(floats)
    for name, part in plan.parts.items():
        memory[places[name] : places[name] + part.floats] = part.make().reshape(-1).view(np.float32)
    if path is not None:
        packed_cache.store_packed(path, memory)
    return memory


def check_supported(form: Form) -> None:
    """Raise `UnsupportedFormError` for a form that the kernels do not support."""
    lacking = {
        "value embeddings": bool(form.value_layers),
        "the smear of a token into the next": form.smear > 0,
        "layers that mix their input with the first one's": form.mix,
        "the subtraction of a layer's output at the end": form.backout >= 0,
        "norms after parallel layers": bool(form.parallel) and bool({"attn_out", "mlp_out"} & {*form.norms}),
    }
    found = [name for name, there in lacking.items() if there]
    if found:
        raise UnsupportedFormError(f"the kernels do not compute {', '.join(found)}")


def kind_for(form: Form, weights: Mapping[str, Weight], weight_form: GroupForm = "stored") -> str:
    """Return the kind of the products that a model needs, as in `matrices`."""
    names = [f"blocks.{i}.{matrix}.weight" for i in range(form.L) for matrix in MATRICES]
    names.append("tok_emb.weight" if form.tied else "head.weight")
    return kind_of((weights[name] for name in names if name in weights), weight_form)


class _Plan:
    """The plan of a packed model: arrays by name and, by layer and place, codes and other numbers."""

    def __init__(
        self, form: Form, weights: Mapping[str, Weight], weight_form: GroupForm, *, from_residual: bool
    ) -> None:
        self.form, self.weights = form, weights
        self.kind = kind_for(form, weights, weight_form)
        self.shape = shape_of(form, self.kind, from_residual=from_residual)
        self.parts: dict[str, Part] = {}
        self.numbers: dict[str, int] = {}
        self._matrices = MatrixPlan(kind=self.kind, weight_form=weight_form)
        self._embedding()
        for i in range(form.L):
            self._layer(i)
        self._norm("ln_f", "final_scale", "final_shift", form.C)
        for n, rope in enumerate(form.rope):
            if rope.dims != 0:
                self._tables(n, rope)
        shape = self.shape
        longest = max(shape.row, shape.q_row, shape.mlp_row, shape.head_row, padded(form.T)) + LANES
        self.parts["zeros"] = Part(longest, lambda: np.zeros(longest, np.float32))

    def _embedding(self) -> None:
        """Plan the embedding and the head: one array if the head is tied and both can be read from it."""
        form, shape = self.form, self.shape
        embedding = self.weights["tok_emb.weight"]
        if shape.from_residual:
            code, part = ROWS, Part(form.V * shape.row, lambda: _rows(embedding, shape.row))
        elif form.tied and self.kind != "int8":
            code, part = self._matrices.part(embedding)
        else:
            stored = MatrixPlan(kind=KIND_OF.get(embedding.kind, "groups"), weight_form="stored")
            code, part = stored.part(embedding)
        self.parts["embedding"] = part
        self.numbers |= {"embedding_code": code, "head_code": code}
        if not form.tied or self.kind == "int8" or shape.from_residual:
            head = embedding if form.tied else self.weights["head.weight"]
            self.numbers["head_code"], self.parts["head"] = self._matrices.part(head)
        self._vector("head.bias", "head_bias", shape.head_row)
        if form.positions == "learned":
            rows = self.weights["pos_emb.weight"]
            self.parts["positions"] = Part(form.T * shape.row, lambda: _rows(rows, shape.row))
        if "embed" in form.norms:
            self._norm("ln_e", "embed_norm", "embed_shift", form.C)

    def _layer(self, i: int) -> None:
        form, block = self.form, f"blocks.{i}."
        for place in form.norms:
            if place != "embed":
                self._norm(f"{block}norms.{place}", f"{i}.{place}", f"{i}.{place}_shift", form.C)
        for name, heads in (("q", form.H), ("k", form.KV)) if form.qk_norm else ():
            size = heads * form.D if form.qk_norm == "row" else form.D
            self._norm(f"{block}{name}_norm", f"{i}.{name}_norm", f"{i}.{name}_shift", size)
        for name in MATRICES:
            if f"{block}{name}.weight" in self.weights:
                weight = self.weights[f"{block}{name}.weight"]
                self.numbers[f"{i}.{name}_code"], self.parts[f"{i}.{name}"] = self._matrices.part(weight)
                self._vector(f"{block}{name}.bias", f"{i}.{name}_bias", padded(weight.shape[0]) + LANES)
        if self.shape.from_residual and f"{i}.down_bias" not in self.parts:
            # Adding zeros turns -0.0 into 0.0, as it always has.
            row = self.shape.row
            self.parts[f"{i}.down_bias"] = Part(row, lambda: np.zeros(row, np.float32))
        self.numbers |= {f"{i}.window": form.windows[form.kind(i)], f"{i}.kind": form.kind(i)}

    def _vector(self, name: str, ours: str, room: int) -> None:
        """Plan a one-dimensional weight, padded with zeros, if the model has it."""
        if name in self.weights:
            weight = self.weights[name]
            self.parts[ours] = Part(room, lambda: _rows(weight, room))

    def _norm(self, name: str, scale: str, shift: str, size: int) -> None:
        room = padded(size) + LANES
        if f"{name}.weight" in self.weights:
            self._vector(f"{name}.weight", scale, room)
        else:  # without weights
            self.parts[scale] = Part(room, lambda: np.ones(room, np.float32))
        self._vector(f"{name}.bias", shift, room)
        if not self.shape.rms and shift not in self.parts:
            self.parts[shift] = Part(room, lambda: np.zeros(room, np.float32))

    def _tables(self, n: int, rope: Rope) -> None:
        form, row = self.form, self.shape.table_row
        made: list[np.ndarray] = []

        def table(which: int) -> np.ndarray:
            if not made:
                made.extend(rotary_tables(form.T, form.D, rope, row))
            return made[which]

        self.parts[f"cosine {n}"] = Part(form.T * row, lambda: table(0))
        self.parts[f"sine {n}"] = Part(form.T * row, lambda: table(1))


def shape_of(form: Form, kind: str, *, from_residual: bool) -> Shape:
    """Return what the kernels need to know of a form whose matrices are of one kind."""
    H, KV, D = form.heads
    widest = max(form.C, H * D, form.d_ff)
    # 1 / sqrt(D) as the kernels have always computed it.
    usual = np.float32(1.0) / np.sqrt(np.float32(D))
    return Shape(
        L=form.L,
        H=H,
        KV=KV,
        D=D,
        C=form.C,
        F=form.d_ff,
        V=form.V,
        rms=form.norm == "rmsnorm",
        gated=form.gated,
        mlp=ACTIVATIONS[form.mlp],
        qk_norm=QK_NORMS[form.qk_norm],
        parallel=PARALLELS[form.parallel],
        from_residual=from_residual,
        norm_eps=np.float32(form.norm_eps),
        score_factor=usual if form.score_scale == D**-0.5 else np.float32(form.score_scale),
        score_cap=np.float32(form.score_cap),
        qk_scale=np.float32(form.qk_scale),
        embed_scale=np.float32(form.embed_scale),
        residual_scale=np.float32(form.residual_scale),
        head_scale=np.float32(form.head_scale),
        head_cap=np.float32(form.head_cap),
        row=padded(form.C) + LANES,
        q_row=padded(H * D) + LANES,
        kv_row=padded(KV * D) + LANES,
        mixed_row=padded(H * D) + LANES,
        mlp_row=padded(form.d_ff),
        head_row=padded(form.V),
        table_row=D if D % LANES == 0 else padded(H * D),
        record_row=record_bytes(-(-widest // GROUP) * GROUP) if kind == "groups" else 0,
    )


def _rows(weight: Weight, room: int) -> np.ndarray:
    """Plan float32 rows, each padded with zeros to the given number of floats."""
    values = dequantise(weight)
    out = np.zeros((*values.shape[:-1], room), np.float32)
    out[..., : values.shape[-1]] = values
    return out


def pack_state(
    cfg: ModelConfig, state: Mapping[str, np.ndarray], form: WeightForm = "float32"
) -> PackedModel:
    """Pack the float32 parameters of a GPT, by the names of `niels_gpt.model.gpt`."""
    return pack_form(form_of(cfg), weights_from_state(cfg, state), form, from_residual=True)


def pack_gpt(model: GPT, form: WeightForm = "float32") -> PackedModel:
    """Return the packed weights of a torch model."""
    state = {name: tensor.detach().cpu().float().numpy() for name, tensor in model.state_dict().items()}
    return pack_state(model.cfg, state, form)


class StepMemory:
    """The arrays of a step: up to `rows` rows, states of up to `room` positions, `parts` threads."""

    def __init__(self, shape: Shape, *, rows: int, room: int, parts: int) -> None:
        self.rows, self.room, self.parts = rows, room, parts
        added = 0 if shape.from_residual else shape.row
        sizes = [shape.row, shape.q_row, shape.kv_row, shape.kv_row, shape.mixed_row, added, shape.mlp_row]
        sizes.append(shape.mlp_row if shape.gated else 0)
        # One vector more: the last head of a row may spill over its end.
        shared = [aligned(rows * size + LANES) for size in sizes]

        def own(size: int) -> list[np.ndarray]:
            """Allocate rows for each part: all rows for the first, a few for the others."""
            return [aligned((rows if part == 0 else min(rows, FEW_ROWS)) * size) for part in range(parts)]

        widest = max(shape.row, shape.q_row, shape.mlp_row)
        by_part = [
            own(shape.row),
            own(shape.record_row // 4),
            [aligned(widest) for _ in range(parts)],
            [aligned(group_floats(shape, padded(room))) for _ in range(parts)],
        ]
        barrier = np.zeros(BARRIER_INTEGERS, np.int64)
        self._arrays = [*shared, *(array for arrays in by_part for array in arrays), barrier]
        normed, records, spare, scores = (
            np.array([array.ctypes.data for array in arrays], np.int64) for arrays in by_part
        )
        self.work = Workspace(
            *(array.ctypes.data for array in shared),
            normed=normed, records=records, spare=spare, scores=scores, positions=group_positions(shape),
            barrier=barrier.ctypes.data, stop=np.zeros(1, np.int64),
        )  # fmt: skip


def example_step() -> tuple[Shape, Weights, Workspace, Rows]:
    """Return arguments of the types that the kernels take, for no computation."""
    form = Form(V=16, T=16, C=16, L=1, H=1, KV=1, D=16, d_ff=16, norm="rmsnorm", mlp="gelu")
    shape, numbers = shape_of(form, "float32", from_residual=True), np.zeros(1, np.int64)
    numbers_or_arrays: dict[str, Any] = dict.fromkeys(Weights._fields, 0)
    numbers_or_arrays |= {"products": Products(0, 0), "layers": np.zeros((1, len(PLACES)), np.int64)}
    weights = Weights(**numbers_or_arrays)
    work = StepMemory(shape, rows=1, room=16, parts=1).work
    return shape, weights, work, Rows(numbers, numbers, numbers, numbers)


@cache
def attention_address() -> int:
    """Return the address of the compiled `attention`, the same for all models."""
    shape, weights, work, rows = example_step()
    return address_of(attention, (shape, weights, weights.layers[0], work, rows, 0, 0, 1))


def new_state(shape: Shape, positions: int) -> tuple[np.ndarray, int]:
    """Return (keys and values of all layers, positions in whole vectors) for up to `positions` positions."""
    room = padded(positions)
    return aligned(shape.L * state_floats.py_func(shape.KV, shape.D, room)), room
