"""A file's tensors as the weights of a form: renamed, split, reordered, on demand.

Every weight is checked when the mapping is made; nothing is copied then. What needs no change stays a view
of the mapped file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple, TypeVar

import numpy as np

from niels_gpt.model.families.family import Layout
from niels_gpt.model.form import Form
from niels_gpt.model.stored import CheckpointError, StoredTensors, as_weight, stored_bytes
from niels_gpt.model.weights import (
    ITEM_BYTES,
    Weight,
    dequantise,
    float32_weight,
    nbytes_of,
    rows_of,
    shapes_of,
)

T = TypeVar("T")
WRAPPERS = ("_orig_mod.", "module.")
ROWS_OF_V = ("tok_emb.weight", "head.weight", "head.bias", "value_emb.weight")
"""Weights with a row for each token, of which files may have more than the vocabulary."""
WITHOUT_MEANING = (
    ".inv_freq", ".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias",
    "rope_freqs.weight",
)  # fmt: skip
"""Ends of the names of tensors that follow from the config: masks and angles."""


def map_weights(
    form: Form, layout: Layout, tensors: StoredTensors, *, where: str
) -> tuple[Form, Mapping[str, Weight]]:
    """Return the form that the file has, and its weights.

    The form differs where the config says that the head is the embedding and the file has another head.

    Args:
        form: what the config describes.
        layout: how the family names and orders its weights.
        tensors: the file's.
        where: the file's name for errors.

    Raises:
        CheckpointError: a weight is missing, too many, of a type that is not supported, or of another shape.

    """
    if layout.prefix and not any(name.startswith(layout.prefix) for name in tensors):
        head = layout.names.get("head", "")
        tensors = {
            name if name.rpartition(".")[0] == head else layout.prefix + name: value
            for name, value in tensors.items()
        }
    if form.tied and _has_own_head(layout, tensors):
        form = replace(form, tied=False)
    found = MappedWeights(form, layout, tensors, where)
    return form, found


def without_wrappers(weights: Mapping[str, T]) -> dict[str, T]:
    """Return weights without the prefixes that torch.compile and data-parallel wrappers put in front."""
    found = dict(weights)
    while found and any(all(name.startswith(prefix) for name in found) for prefix in WRAPPERS):
        prefix = next(prefix for prefix in WRAPPERS if next(iter(found)).startswith(prefix))
        found = {name.removeprefix(prefix): value for name, value in found.items()}
    return found


def _has_own_head(layout: Layout, tensors: StoredTensors) -> bool:
    head = tensors.get(f"{layout.names.get('head', '')}.weight")
    embedding = tensors.get(f"{layout.names['tok_emb']}.weight")
    if head is None or embedding is None:
        return False
    same = (head.kind, head.shape) == (embedding.kind, embedding.shape)
    return not (same and np.array_equal(head.data, embedding.data))


class _Place(NamedTuple):
    """Where a weight comes from."""

    tensor: str | None
    """Its name in the file; None for a norm without weights."""
    part: str
    """Which rows: "" for all, or "q", "k", "v", "gate", "up" of a matrix that holds several."""


class MappedWeights(Mapping[str, Weight]):
    """The weights of a form by our names."""

    def __init__(self, form: Form, layout: Layout, tensors: StoredTensors, where: str) -> None:
        self._form, self._layout, self._tensors, self._where = form, layout, tensors, where
        self._shapes = shapes_of(form)
        self._places = {name: self._place(name) for name in self._shapes}
        for name, place in self._places.items():
            if place.tensor is not None:
                self._check(name, place.tensor, self._stored_shape(name, place))
        used = {place.tensor for place in self._places.values()}
        if form.tied and "head" in layout.names:
            used.add(f"{layout.names['head']}.weight")
        left = sorted(name for name in tensors if name not in used and not name.endswith(WITHOUT_MEANING))
        if left:
            more = f" and {len(left) - 1} more" if len(left) > 1 else ""
            raise CheckpointError(
                f"{where!r} has weights that its config does not explain: {left[0]!r}{more}"
            )

    def __len__(self) -> int:
        """Return how many weights there are."""
        return len(self._shapes)

    def __iter__(self) -> Iterator[str]:
        """Go over the names, in the order of the layers."""
        return iter(self._shapes)

    def __getitem__(self, name: str) -> Weight:
        """Return a weight, a view where the file holds it as it is wanted."""
        shape, (tensor, rows) = self._shapes[name], self._places[name]
        if tensor is None:
            return float32_weight(np.ones(shape, np.float32))
        weight = as_weight(self._tensors[tensor])
        layer, part, _ = _parsed(name)
        if self._layout.transposed and layer is not None and len(weight.shape) == 2:
            weight = _transposed(weight)
        if rows:
            weight = self._rows(weight, rows)
        if part in {"q", "k", "q_norm", "k_norm"}:
            weight = self._paired(weight, int(layer or 0))
        if weight.shape[0] > shape[0]:
            weight = _slice(weight, 0, shape[0])
        if self._layout.one_plus and _is_norm(part):
            weight = float32_weight(np.float32(1.0) + dequantise(weight))
        return weight

    def _place(self, name: str) -> _Place:
        layer, part, kind = _parsed(name)
        names = self._layout.names
        whole = None if part not in names else f"{names[part].format(layer)}.{kind}"
        if whole is not None and whole in self._tensors:
            return _Place(whole, "")
        fused = "qkv" if part in {"q", "k", "v"} else "gate_up" if part in {"gate", "up"} else ""
        if fused in names:
            return _Place(f"{names[fused].format(layer)}.{kind}", part)
        if whole is None and _is_norm(part) and kind == "weight":
            return _Place(None, "")
        raise CheckpointError(f"{self._where!r} has no weight {whole or name!r}, which its config asks for")

    def _stored_shape(self, name: str, place: _Place) -> tuple[int, ...]:
        """Return the shape that a weight's tensor must have."""
        H, KV, D = self._form.heads
        rows, *columns = self._shapes[name]
        if place.part in {"q", "k", "v"}:
            rows = (H + 2 * KV) * D
        elif place.part:
            rows = 2 * self._form.d_ff
        turned = self._layout.transposed and name.startswith("blocks.")
        return (*columns, rows) if turned else (rows, *columns)

    def _check(self, name: str, tensor: str, expected: tuple[int, ...]) -> None:
        stored = self._tensors.get(tensor)
        if stored is None:
            raise CheckpointError(f"{self._where!r} has no weight {tensor!r}, which its config asks for")
        if stored_bytes(stored.kind, stored.shape) is None:
            raise CheckpointError(
                f"{self._where!r}: {tensor!r} is {stored.kind} of shape {stored.shape}, not supported; "
                "expected float32, float16, bfloat16, Q8_0, Q4_0, Q4_1, Q4_K, Q5_K or Q6_K in whole blocks"
            )
        more_rows = name.endswith(ROWS_OF_V) and stored.shape[1:] == expected[1:]
        if stored.shape != expected and not (more_rows and stored.shape[0] >= expected[0]):
            raise CheckpointError(
                f"{self._where!r}: {tensor!r} has the shape {stored.shape}, its config asks for {expected}"
            )

    def _rows(self, weight: Weight, part: str) -> Weight:
        """Return one part of a matrix that holds several."""
        H, KV, D = self._form.heads
        if part in {"gate", "up"}:
            first = self._form.d_ff * (part == "up")
            return _slice(weight, first, first + self._form.d_ff)
        if self._layout.qkv == "heads":
            if KV != H:
                raise CheckpointError(
                    f"{self._where!r}: heads of q, k and v side by side need as many of each"
                )
            heads = np.arange(H * D).reshape(H, D) + 2 * D * np.arange(H)[:, None]
            return rows_of(weight, heads.reshape(-1) + D * "qkv".index(part))
        first = {"q": 0, "k": H * D, "v": (H + KV) * D}[part]
        return _slice(weight, first, first + (H if part == "q" else KV) * D)

    def _paired(self, weight: Weight, layer: int) -> Weight:
        """Put the channels that are turned together next to each other, in every head."""
        form = self._form
        if self._layout.pairs == "adjacent" or not form.rope:
            return weight
        dims = form.rope[form.kind(layer)].dims
        d = form.D if dims is None else dims
        halves = np.arange(d).reshape(2, d // 2)
        if self._layout.pairs == "swapped":
            halves = halves[::-1]
        head = np.concatenate((halves.T.reshape(-1), np.arange(d, form.D)))
        heads = weight.shape[0] // form.D
        return rows_of(weight, (np.arange(heads)[:, None] * form.D + head).reshape(-1))


def _parsed(name: str) -> tuple[str | None, str, str]:
    """Return the layer, the part and "weight" or "bias" of one of our names."""
    bits = name.split(".")
    layer = bits[1] if bits[0] == "blocks" else None
    return layer, ".".join(bits[2 if layer is not None else 0 : -1]), bits[-1]


def _is_norm(part: str) -> bool:
    return part.startswith(("norms.", "ln_")) or part in {"q_norm", "k_norm"}


def _slice(weight: Weight, first: int, last: int) -> Weight:
    """Return rows `first` to `last` of a weight, as a view."""
    row = nbytes_of(weight.kind, weight.shape) // weight.shape[0]
    shape = (last - first, *weight.shape[1:])
    return Weight(weight.kind, shape, weight.data[first * row : last * row])


def _transposed(weight: Weight) -> Weight:
    """Return a matrix of numbers with rows and columns exchanged; a copy."""
    if weight.kind not in ITEM_BYTES:
        raise CheckpointError(f"a {weight.kind} matrix cannot be transposed")
    items = weight.data.view(f"<u{ITEM_BYTES[weight.kind]}").reshape(weight.shape)
    turned = np.ascontiguousarray(items.T)
    return Weight(weight.kind, turned.shape, turned.reshape(-1).view(np.uint8))
