"""The randomness of training as a counter: (seed, counter) is its whole state, so a checkpoint can hold it.

Every step seeds its own generators, so what a step draws does not depend on what ran before it.
"""

from __future__ import annotations

import hashlib

_RANK_STRIDE = 0x9E3779B97F4A7C15  # an odd number far from small ones: ranks never share a step's seed


def step_seed(seed: int, counter: int, *, purpose: str) -> int:
    """Return a seed in [0, 2**63) for one purpose at one count: SHA-256 over all three."""
    text = f"niels-gpt training 1\0{purpose}\0{seed}\0{counter}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") & (2**63 - 1)


def dropout_seed(seed: int, counter: int, *, rank: int = 0) -> int:
    """Return the seed of torch's global generators for one step of one process."""
    return (seed * 2**32 + counter + rank * _RANK_STRIDE) % 2**63
