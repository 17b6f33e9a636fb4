"""From a torch model of any architecture to what its kernels read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from niels_gpt.kernels import WeightForm
from niels_gpt.kernels.bdh_packing import PackedBDH, pack_bdh
from niels_gpt.kernels.gpt_packing import PackedModel, pack_gpt

if TYPE_CHECKING:
    from niels_gpt.model.registry import Model


def pack_model(model: Model, form: WeightForm = "float32") -> PackedModel | PackedBDH:
    """The packed weights of a torch model; ValueError for a form that its architecture does not have."""
    if model.arch == "gpt":
        return pack_gpt(model, form)
    if form != "float32":
        raise ValueError(f"a {model.arch} has no {form!r} weights; use float32")
    return pack_bdh(model)
