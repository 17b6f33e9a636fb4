"""Plan the packed arrays of a transformer: what its form needs, by name, with the function that fills each.

A name is a field of `gpt_layout.Weights`, or a layer's number and one of `gpt_layout.PLACES`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from niels_gpt.kernels import GroupForm, UnsupportedFormError
from niels_gpt.kernels.gpt_layout import (
    GELU,
    GELU_TANH,
    HEAD_NORM,
    IN_TURN,
    NORM_AFTER,
    ONE_NORM,
    RELU,
    RELU_SQUARED,
    ROW_NORM,
    ROWS,
    SILU,
    TWO_NORMS,
    Shape,
)
from niels_gpt.kernels.integer_layout import GROUP, record_bytes
from niels_gpt.kernels.matrix_packing import KIND_OF, MatrixPlan, Part, kind_of
from niels_gpt.kernels.processor import LANES, padded
from niels_gpt.kernels.rope import rotary_tables
from niels_gpt.model.form import Form, Rope
from niels_gpt.model.weights import Weight, dequantise

ACTIVATIONS = {"gelu": GELU, "gelu_tanh": GELU_TANH, "silu": SILU, "relu": RELU, "relu2": RELU_SQUARED}
QK_NORMS = {"": 0, "head": HEAD_NORM, "row": ROW_NORM, "after": NORM_AFTER}
PARALLELS = {"": IN_TURN, "two": TWO_NORMS, "one": ONE_NORM}
MATRICES = ("q", "k", "v", "proj", "up", "gate", "down")


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


class Plan:
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
