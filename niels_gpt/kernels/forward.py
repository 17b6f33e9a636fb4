"""Dispatch to the forward pass of an architecture by the type of the model's shape.

Numba resolves the call when it compiles `run` for an architecture. So the dispatch costs nothing in a step,
and architectures that are not used are not compiled.
"""

from __future__ import annotations

from numba.extending import overload

from niels_gpt.kernels import bdh, gpt

FORWARDS = {gpt.Shape: gpt.forward, bdh.BDHShape: bdh.forward}


def forward(shape, weights, work, rows, wanted, logits, part, parts):
    """Run all rows of a step through a model; see `gpt.forward` and `bdh.forward`."""


@overload(forward)
def _chosen(shape, weights, work, rows, wanted, logits, part, parts):  # noqa: ARG001 - Numba compares the names
    chosen = FORWARDS[shape.instance_class]

    def call(shape, weights, work, rows, wanted, logits, part, parts):
        return chosen(shape, weights, work, rows, wanted, logits, part, parts)

    return call
