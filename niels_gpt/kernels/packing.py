"""Pack a model of any architecture for its kernels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from niels_gpt.kernels import GroupForm, WeightForm
from niels_gpt.kernels.bdh_packing import PackedBDH, pack_bdh
from niels_gpt.kernels.gpt_packing import PackedModel, pack_form, pack_gpt, pack_state
from niels_gpt.kernels.gpt_plan import check_supported, kind_for

__all__ = ["check_supported", "kind_for", "pack", "pack_model", "pack_state"]

if TYPE_CHECKING:
    from niels_gpt.model.form import Form
    from niels_gpt.model.registry import Model
    from niels_gpt.model.weights import Weight


def pack(
    form: Form, weights: Mapping[str, Weight], weight_form: GroupForm = "stored", content: str | None = None
) -> PackedModel:
    """Pack a model of any family; see `pack_form`."""
    return pack_form(form, weights, weight_form, content=content)


def pack_model(model: Model, form: WeightForm = "float32") -> PackedModel | PackedBDH:
    """Pack a torch model; raise ValueError for a weight form that its architecture does not support."""
    if model.arch == "gpt":
        return pack_gpt(model, form)
    if form != "float32":
        raise ValueError(f"a {model.arch} has no {form!r} weights; use float32")
    return pack_bdh(model)
