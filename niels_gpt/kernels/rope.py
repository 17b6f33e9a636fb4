"""Cosines and sines of the rotary positions, the same bits on every machine.

The C library's sine is not the same everywhere. So the turn by one position, two, four, eight, ... is
computed in decimal arithmetic of 40 digits, which is exact about its rounding on every platform, and rounded
to float64 once; every other position is a product of those turns in float64, one IEEE multiplication or
addition at a time. The result is within 1e-14 of the true value before it becomes a float32.

T positions, D head width (even), theta the base: pair i turns by position * theta ** (-2 i / D).
"""

from __future__ import annotations

from decimal import Context, Decimal, localcontext

import numpy as np

DIGITS = 40


def rotary_tables(T: int, D: int, theta: float, width: int) -> tuple[np.ndarray, np.ndarray]:
    """(cosine, sine), each (T, width) float32: the D angles of a head, pair by pair, repeated to `width`.

    Cosines stand twice; of the sines the first of each pair is negative, as the rotation of a pair needs
    them.
    """
    cosine, sine = np.ones((T, D // 2)), np.zeros((T, D // 2))
    for pair in range(D // 2):
        turn_cosine, turn_sine = _first_turn(theta, 2 * pair, D)
        known = 1
        while known < T:
            fresh = min(known, T - known)
            c, s = float(turn_cosine), float(turn_sine)
            old_c, old_s = cosine[:fresh, pair], sine[:fresh, pair]
            cosine[known : known + fresh, pair] = old_c * c - old_s * s
            sine[known : known + fresh, pair] = old_s * c + old_c * s
            with localcontext(Context(prec=DIGITS)):
                turn_cosine, turn_sine = (
                    turn_cosine * turn_cosine - turn_sine * turn_sine,
                    2 * turn_cosine * turn_sine,
                )
            known *= 2
    both = np.repeat(cosine, 2, axis=1), np.repeat(sine, 2, axis=1)
    both[1][:, ::2] *= -1.0
    copies = -(-width // D)
    tables = [np.tile(table, (1, copies))[:, :width].astype(np.float32) for table in both]
    return np.ascontiguousarray(tables[0]), np.ascontiguousarray(tables[1])


def _first_turn(theta: float, exponent: int, D: int) -> tuple[Decimal, Decimal]:
    """Cosine and sine of theta ** (-exponent / D), by their series; the angle is at most 1."""
    with localcontext(Context(prec=DIGITS)):
        angle = (-(Decimal(exponent) / Decimal(D)) * Decimal(theta).ln()).exp()
        square = angle * angle
        cosine = sine = Decimal(0)
        term = Decimal(1)  # angle ** n / n!, with the sign of its series
        for n in range(0, 60, 2):
            cosine += term
            sine += term * angle / (n + 1)
            term *= -square / ((n + 1) * (n + 2))
    return cosine, sine
