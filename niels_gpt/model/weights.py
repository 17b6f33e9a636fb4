"""The weights of a model by name, as bytes of a mapped file, and what the quantised forms mean.

Names are ours whatever the file calls them: `tok_emb.weight`, `pos_emb.weight`, `blocks.N.q.weight` and so on
for `k`, `v`, `proj`, `up`, `gate` and `down` (`.bias` where the form has one),
`blocks.N.norms.attn_in.weight` and so on for `attn_out`, `mlp_in` and `mlp_out`, `blocks.N.q_norm.weight`,
`blocks.N.k_norm.weight`, `ln_e` and `ln_f`, and `head` unless it is tied. nanochat adds
`blocks.N.value_emb.weight` (V, KV * D), `blocks.N.value_gate.weight` (KV, value_gate), `blocks.N.mix.weight`
(2,), `smear.weight` (1, smear), `smear_scale.weight` (1,) and `backout.weight` (1,).

A matrix is (rows, columns) = (out, in), as in torch's Linear. The rows of q and k stand in the order that
turns adjacent channels. Norms multiply by their weight itself: 1 + w is added up when a file is opened.

The quantised forms are GGUF's blocks of 32 columns, little-endian:
    q8_0  float16 d, 32 int8 q                      w = d * q
    q4_0  float16 d, 16 bytes                       w = d * (n - 8)
    q4_1  float16 d, float16 m, 16 bytes            w = d * n + m
Byte i of a block holds n of column i in its low four bits and of column i + 16 in its high ones. Products and
sums are float32 operations, one at a time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from niels_gpt.model.form import Form

WeightKind = Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1"]

GROUP = 32
"""Columns of a block of the quantised forms."""
BLOCK_BYTES: dict[str, int] = {"q8_0": 34, "q4_0": 18, "q4_1": 20}
ITEM_BYTES: dict[str, int] = {"f32": 4, "f16": 2, "bf16": 2}


class Weight(NamedTuple):
    """One array of weights in the form that a file has it."""

    kind: WeightKind
    shape: tuple[int, ...]
    """(rows, columns) or (size,)."""
    data: np.ndarray
    """Its bytes, (n,) uint8; read-only where they are a mapped file."""


Weights: TypeAlias = Mapping[str, Weight]


def nbytes_of(kind: str, shape: tuple[int, ...]) -> int:
    """Return the bytes of a weight; ValueError for a form whose blocks do not fit its columns."""
    if kind in ITEM_BYTES:
        return math.prod(shape) * ITEM_BYTES[kind]
    if not shape or shape[-1] % GROUP:
        raise ValueError(f"a {kind} weight of shape {shape} has no whole blocks of {GROUP} columns")
    return math.prod(shape) // GROUP * BLOCK_BYTES[kind]


def float32_weight(values: np.ndarray) -> Weight:
    """Return a float32 array as a weight."""
    contiguous = np.ascontiguousarray(values, np.float32)
    return Weight("f32", contiguous.shape, contiguous.reshape(-1).view(np.uint8))


def shapes_of(form: Form) -> dict[str, tuple[int, ...]]:  # noqa: C901 - a list, one line a weight
    """Return the names and shapes of the weights that a form needs."""
    norm_bias = form.norm == "layernorm" and "norm" in form.biases
    norms = [place for place in form.norms if place != "embed"]
    shapes: dict[str, tuple[int, ...]] = {"tok_emb.weight": (form.V, form.C)}
    if form.positions == "learned":
        shapes["pos_emb.weight"] = (form.T, form.C)
    for layer in range(form.L):
        block = f"blocks.{layer}"
        for name, rows, columns, bias in _matrices(form):
            shapes[f"{block}.{name}.weight"] = (rows, columns)
            if bias in form.biases:
                shapes[f"{block}.{name}.bias"] = (rows,)
        shapes |= _norm_shapes([f"{block}.norms.{place}" for place in norms], form.C, bias=norm_bias)
        if form.qk_norm:
            heads = (form.H, form.KV) if form.qk_norm == "row" else (1, 1)
            for letter, count in zip("qk", heads, strict=True):
                shapes[f"{block}.{letter}_norm.weight"] = (count * form.D,)
        if layer in form.value_layers:
            shapes[f"{block}.value_emb.weight"] = (form.V, form.KV * form.D)
            shapes[f"{block}.value_gate.weight"] = (form.KV, form.value_gate)
        if form.mix:
            shapes[f"{block}.mix.weight"] = (2,)
    shapes |= _norm_shapes(["ln_e"] * ("embed" in form.norms) + ["ln_f"], form.C, bias=norm_bias)
    if form.smear:
        shapes |= {"smear.weight": (1, form.smear), "smear_scale.weight": (1,)}
    if form.backout >= 0:
        shapes["backout.weight"] = (1,)
    if not form.tied:
        shapes["head.weight"] = (form.V, form.C)
    if "head" in form.biases:
        shapes["head.bias"] = (form.V,)
    return shapes


def _matrices(form: Form) -> list[tuple[str, int, int, str]]:
    """Return name, rows, columns and the name of the bias of each matrix of a layer."""
    H, KV, D = form.heads
    found = [
        ("q", H * D, form.C, "qkv"),
        ("k", KV * D, form.C, "qkv"),
        ("v", KV * D, form.C, "qkv"),
        ("proj", form.C, H * D, "proj"),
        ("up", form.d_ff, form.C, "up"),
        ("down", form.C, form.d_ff, "down"),
    ]
    return [*found, ("gate", form.d_ff, form.C, "gate")] if form.gated else found


def _norm_shapes(names: list[str], width: int, *, bias: bool) -> dict[str, tuple[int, ...]]:
    ends = ("weight", "bias") if bias else ("weight",)
    return {f"{name}.{end}": (width,) for name in names for end in ends}


def dequantise(weight: Weight) -> np.ndarray:
    """Return a weight as float32 of its shape: exactly what the definition above says."""
    raw = weight.data
    match weight.kind:
        case "f32":
            values = raw.view("<f4")
        case "f16":
            values = raw.view("<f2").astype(np.float32)
        case "bf16":
            values = (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
        case "q8_0":
            blocks = raw.reshape(-1, BLOCK_BYTES["q8_0"])
            values = _scale(blocks[:, :2]) * blocks[:, 2:].view(np.int8).astype(np.float32)
        case "q4_0":
            blocks = raw.reshape(-1, BLOCK_BYTES["q4_0"])
            values = _scale(blocks[:, :2]) * (_nibbles(blocks[:, 2:]) - np.float32(8))
        case "q4_1":
            blocks = raw.reshape(-1, BLOCK_BYTES["q4_1"])
            values = _scale(blocks[:, :2]) * _nibbles(blocks[:, 4:]) + _scale(blocks[:, 2:4])
    return np.ascontiguousarray(values, np.float32).reshape(weight.shape)


def rows_of(weight: Weight, order: np.ndarray) -> Weight:
    """Return the rows of a weight in another order, in the same form; a copy."""
    raw = weight.data.reshape(weight.shape[0], -1)[order]
    return Weight(weight.kind, (len(order), *weight.shape[1:]), raw.reshape(-1))


def _scale(pair: np.ndarray) -> np.ndarray:
    """Widen a float16 of each block, (blocks, 2) uint8, to (blocks, 1) float32."""
    return np.ascontiguousarray(pair).view("<f2").astype(np.float32)


def _nibbles(packed: np.ndarray) -> np.ndarray:
    """Return the 32 numbers of each block, (blocks, 16) uint8, as (blocks, 32) float32."""
    return np.concatenate((packed & 15, packed >> 4), axis=1).astype(np.float32)
