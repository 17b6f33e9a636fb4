"""Derive the seeds of training from counters: (seed, counter) is the whole state, kept in checkpoints.

Every step seeds its own generators, so what a step draws does not depend on what ran before it.
"""

from __future__ import annotations

import hashlib

RNG_VERSION = 2
"""Version of `dropout_seed`. Version 1 lost the run's seed: torch's CPU generator keeps 32 bits of a seed."""


def step_seed(seed: int, counter: int, *, purpose: str) -> int:
    """Return a seed in [0, 2**63) for one purpose at one count: SHA-256 over all three."""
    return int.from_bytes(_digest(purpose, seed, counter)[:8], "big") & (2**63 - 1)


def dropout_seed(seed: int, counter: int, *, rank: int = 0) -> int:
    """Return the seed, in [0, 2**32), of torch's global generators for one step of one process.

    An affine function of the counter, with coefficients from SHA-256 over (seed, rank): the multiplier is
    odd, so the first 2**32 steps of a process have different seeds.
    """
    digest = _digest("dropout", seed, rank)
    multiplier = int.from_bytes(digest[:4], "big") | 1
    offset = int.from_bytes(digest[4:8], "big")
    return (multiplier * counter + offset) % 2**32


def _digest(purpose: str, seed: int, number: int) -> bytes:
    return hashlib.sha256(f"niels-gpt training 1\0{purpose}\0{seed}\0{number}".encode()).digest()
