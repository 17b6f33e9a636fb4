"""Pack a transformer's weights for the kernels, and allocate the arrays of a step.

All weights are in one block of memory, each packed and aligned to a cache line. The system gives large pages
to large blocks, which saves a few percent of time. Each weight is packed directly into its place, so packing
needs no more memory than the result and one matrix. A `PackedModel` and the arrays made here own their
memory; the kernels receive addresses only and do not keep it alive.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from niels_gpt.kernels import (
    INTEGER_VERSION,
    KERNEL_VERSION,
    GroupForm,
    WeightForm,
    packed_cache,
)
from niels_gpt.kernels.gpt_layout import (
    BARRIER_INTEGERS,
    FEW_ROWS,
    PLACES,
    Products,
    Rows,
    Shape,
    Weights,
    Workspace,
    group_floats,
    group_positions,
    state_floats,
)
from niels_gpt.kernels.gpt_plan import Plan, check_supported, shape_of
from niels_gpt.kernels.integer_layout import OFFSET
from niels_gpt.kernels.object_code import FLOATS, address_of
from niels_gpt.kernels.processor import LANES, aligned, padded
from niels_gpt.model.form import Form
from niels_gpt.model.gpt_form import form_of, weights_from_state
from niels_gpt.model.weights import Weight, shapes_of

if TYPE_CHECKING:
    from niels_gpt.model.config import ModelConfig
    from niels_gpt.model.gpt import GPT


class PackedModel:
    """A transformer's weights, packed: `shape` and `weights` are what the kernels take.

    `version` is that of the arithmetic, a number of `KERNEL_HISTORY`.
    """

    arch = "gpt"

    def __init__(self, plan: Plan, content: str | None) -> None:
        """Pack the planned arrays into one block of memory, or map the file of an earlier time."""
        self.shape, self.T, self.kind = plan.shape, plan.form.T, plan.kind
        self.version = INTEGER_VERSION if plan.kind == "groups" else KERNEL_VERSION
        others = 0 if plan.kind == "float32" else address_of(f"product {plan.kind}")
        compiled = Products(address_of(FLOATS), others)
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
        self.weights = Weights(**{**at, **codes, "products": compiled, "attention": address_of("attention")})

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
        return 4 * self.shape.L * state_floats(self.shape.KV, self.shape.D, 1)

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
    return PackedModel(Plan(form, weights, weight_form, from_residual=from_residual), content)


def _filled(plan: Plan, places: Mapping[str, int], floats: int, content: str | None) -> np.ndarray:
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


def new_state(shape: Shape, positions: int) -> tuple[np.ndarray, int]:
    """Return (keys and values of all layers, positions in whole vectors) for up to `positions` positions."""
    room = padded(positions)
    return aligned(shape.L * state_floats(shape.KV, shape.D, room)), room
