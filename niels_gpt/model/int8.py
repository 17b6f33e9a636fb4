"""Weights as whole numbers of eight bits: a quarter of the bytes, for models that outgrow the cache.

Each output column of a linear layer has one scale, its largest weight / 127 in float32; a weight becomes
weight / scale, divided in float64 and rounded to the nearest integer, ties to even. All of it is IEEE
arithmetic one operation at a time, so the same checkpoint gives the same integers everywhere. What the
kernels compute with them is defined in `linear`; embedding rows, norms and biases stay float32.

One scale a column is enough: over held-out dialogues it moves the loss by less than 1e-4 nats a token, and
scales for every 32 or 64 weights of a column move it no less (`bench/int8_quality.py`), while they would cost
another multiply-add and a load for each group. Imports nothing heavy.

N output columns, K depth.
"""

from __future__ import annotations

import numpy as np

LARGEST = 127


def quantised(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A torch weight (N, K) float32 as integers (N, K) int8 in [-127, 127] and scales (N,) float32.

    A column that holds an infinity or NaN gets the scale NaN, so that no reply is drawn from it. A column
    whose scale would be below the smallest float32 is zero.
    """
    largest = np.abs(weight).max(axis=1)
    finite = np.isfinite(largest)
    scale = np.where(finite, largest, np.float32(0.0)) / np.float32(LARGEST)
    usable = scale > 0
    divisor = np.where(usable, scale, np.float32(1.0)).astype(np.float64)
    quotient = np.where(usable[:, None], weight, np.float32(0.0)) / divisor[:, None]
    # Beyond LARGEST only where the scale is subnormal, and so a coarse one.
    integers = np.clip(np.rint(quotient), -LARGEST, LARGEST).astype(np.int8)
    return integers, np.where(finite, scale, np.float32(np.nan))
