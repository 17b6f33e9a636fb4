"""Sizes of weights and activations as integers in groups of 32, for the instructions of this processor."""

from __future__ import annotations

from niels_gpt.kernels.processor import FEATURES, LANES

GROUP = 32


def _path(features: dict[str, bool]) -> str:
    """Return the instructions that multiply integers; the choice changes the speed, not the bits."""
    if all(features.get(name) for name in ("avx512vnni", "avx512bw", "avx512vl")):
        return "vnni512"
    if features.get("avxvnni"):
        return "vnni256"
    if features.get("dotprod"):
        return "neon"
    return "avx2" if features.get("avx2") else "plain"


PATH = _path(FEATURES)
USES_BYTES = PATH != "plain"
"""Whether products read `high` and `low`."""
USES_WORDS = PATH in {"avx2", "plain"}
"""Whether products read q as words."""
Q4_GROUP_BYTES, Q8_CELL_BYTES, SCALE_BYTES = 320, 512, 2 * LANES
OFFSET = 128 if PATH.startswith("vnni") else 0
"""The offset added to packed eight-bit weights to make them unsigned."""


def record_bytes(depth: int) -> int:
    """Return the bytes of one row's record, in whole cache lines."""
    planes = 2 * depth * (USES_BYTES + USES_WORDS)
    return -(-(planes + 12 * (depth // GROUP)) // 64) * 64
