"""One name for the forward pass of every architecture: Numba picks it by the type of the model's shape.

Picked when `run` is compiled for an architecture, so it costs nothing in a step, and nobody waits for the
compilation of an architecture that is not used.
"""

from __future__ import annotations

from numba.extending import overload

from niels_gpt.kernels import bdh, gpt

FORWARDS = {gpt.Shape: gpt.forward, bdh.BDHShape: bdh.forward}


def forward(shape, weights, work, rows, wanted, logits, part, parts):
    """All rows of a step through a model; see `gpt.forward` and `bdh.forward`."""


@overload(forward)
def _chosen(shape, weights, work, rows, wanted, logits, part, parts):  # noqa: ARG001 - Numba compares the names
    chosen = FORWARDS[shape.instance_class]

    def call(shape, weights, work, rows, wanted, logits, part, parts):
        return chosen(shape, weights, work, rows, wanted, logits, part, parts)

    return call
