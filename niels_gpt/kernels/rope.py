"""Compute cosines and sines of the rotary positions with the same bits on every machine.

The C library's sine differs between platforms. So the rotation by one position, two, four, eight, ... is
computed in decimal arithmetic of 40 digits, whose rounding is the same on every platform, and rounded to
float64 once. Every other position is a product of those rotations in float64, one IEEE multiplication or
addition at a time. The result is within 1e-14 of the true value before it becomes a float32.

Scaled rates (linear, llama3, YaRN, a factor for each pair) are computed in the same decimal arithmetic.

T positions, D head width, d rotated channels of a head (even), theta the base: pair i is rotated by
position * theta ** (-2 i / d), without scaling.
"""

from __future__ import annotations

import math
from decimal import Context, Decimal, localcontext

import numpy as np

from niels_gpt.model.form import Rope

DIGITS = 40
TAU = Decimal("6.28318530717958647692528676655900576839433879875021")


def rotary_tables(T: int, D: int, rope: Rope, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (cosine, sine), each (T, width) float32: a head's D angles, pair by pair, repeated to `width`.

    Each cosine occurs twice. The first sine of each pair is negated, as the rotation of a pair requires.
    Channels that are not rotated have the cosine 1 and the sine 0.
    """
    cosine, sine = np.ones((T, D // 2)), np.zeros((T, D // 2))
    rates, factor = _rates(rope, D)
    for pair, rate in enumerate(rates):
        turn_cosine, turn_sine = _first_turn(rate)
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
    if factor != 1.0:
        cosine[:, : len(rates)] *= factor
        sine[:, : len(rates)] *= factor
    both = np.repeat(cosine, 2, axis=1), np.repeat(sine, 2, axis=1)
    both[1][:, ::2] *= -1.0
    copies = -(-width // D)
    tables = [np.tile(table, (1, copies))[:, :width].astype(np.float32) for table in both]
    return np.ascontiguousarray(tables[0]), np.ascontiguousarray(tables[1])


def _rates(rope: Rope, D: int) -> tuple[list[Decimal], float]:
    """Return each pair's rotation by one position, and the factor of cosine and sine; see `Rope.rates`."""
    d = D if rope.dims is None else rope.dims
    with localcontext(Context(prec=DIGITS)):
        log = Decimal(rope.theta).ln()
        plain = [(-(Decimal(2 * pair) / Decimal(d)) * log).exp() for pair in range(d // 2)]
        kind, numbers = rope.scaling[0], [Decimal(value) for value in rope.scaling[1:]]
        if kind == "linear":
            return [rate / numbers[0] for rate in plain], 1.0
        if kind == "factors":
            return [rate / number for rate, number in zip(plain, numbers, strict=True)], 1.0
        if kind == "llama3":
            return [_llama3(rate, *numbers) for rate in plain], 1.0
        if kind == "yarn":
            factor, T0, fast, slow, _ = numbers
            first, last = (d * (T0 / (turns * TAU)).ln() / (2 * log) for turns in (fast, slow))
            low, high = max(math.floor(first), 0), min(math.ceil(last), d - 1)
            span = max(Decimal(high - low), Decimal("0.001"))
            ramps = [min(max((pair - low) / span, Decimal(0)), Decimal(1)) for pair in range(d // 2)]
            blended = [
                rate / factor * ramp + rate * (1 - ramp) for rate, ramp in zip(plain, ramps, strict=True)
            ]
            return blended, float(rope.scaling[5])
        return plain, 1.0


def _llama3(rate: Decimal, factor: Decimal, low: Decimal, high: Decimal, T0: Decimal) -> Decimal:
    wave = TAU / rate
    if wave < T0 / high:
        return rate
    if wave > T0 / low:
        return rate / factor
    smooth = (T0 / wave - low) / (high - low)
    return (1 - smooth) * rate / factor + smooth * rate


def _first_turn(angle: Decimal) -> tuple[Decimal, Decimal]:
    """Return cosine and sine of an angle up to about 1, by their series."""
    with localcontext(Context(prec=DIGITS)):
        square = angle * angle
        cosine = sine = Decimal(0)
        term = Decimal(1)  # angle ** n / n!, with the sign of its series
        for n in range(0, 60, 2):
            cosine += term
            sine += term * angle / (n + 1)
            term *= -square / ((n + 1) * (n + 2))
    return cosine, sine
