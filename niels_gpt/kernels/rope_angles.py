"""Compute cosines and sines of a position's phases with the same bits on every machine.

A phase is a frequency in turns per token, a float32, times a position below 2**29. It is exact in float64,
and so is its remainder after whole quarters of a turn. The Taylor series of this remainder, at most an eighth
of a turn, is evaluated in float64, one IEEE multiplication or addition at a time, within 1e-15.
"""

from __future__ import annotations

import numpy as np

from niels_gpt.kernels.jit import compiled

TERMS = 9
_TAU = 6.283185307179586


def _series(power: int) -> tuple[float, ...]:
    """Return the coefficients tau**n / n! of every other power from `power`, with the signs of the series."""
    coefficient, out = 1.0, []
    for n in range(power + 2 * TERMS):
        if n >= power and (n - power) % 2 == 0:
            out.append(coefficient if (n - power) % 4 == 0 else -coefficient)
        coefficient = coefficient * _TAU / (n + 1)
    return tuple(out)


COSINE, SINE = _series(0), _series(1)


@compiled
def phase_tables(frequencies, position, cosine, sine):
    """Fill the tables (N,) float32 of one position as `rotate_row` wants them, sines negative at even places.

    `frequencies` (N,) are float64 with the values of float32s.
    """
    for i in range(frequencies.size):
        turns = position * frequencies[i]
        turns -= np.floor(turns)
        quarter = np.floor(4.0 * turns + 0.5)
        rest = turns - 0.25 * quarter
        square = rest * rest
        c, s = COSINE[TERMS - 1], SINE[TERMS - 1]
        for term in range(TERMS - 2, -1, -1):
            c = c * square + COSINE[term]
            s = s * square + SINE[term]
        s = s * rest
        side = np.int64(quarter) & 3
        if side & 1:
            c, s = -s, c
        if side & 2:
            c, s = -c, -s
        cosine[i] = np.float32(c)
        sine[i] = np.float32(-s if i % 2 == 0 else s)
