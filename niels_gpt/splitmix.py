"""SplitMix64 (Steele et al. 2014, doi.org/10.1145/2660193.2660195): numbers that look random, from none.

They must never change: recorded hashes depend on them. Knows nothing of what they are used for.
"""

from __future__ import annotations

from functools import cache

import numpy as np


@cache
def odd_numbers(count: int) -> np.ndarray:
    """Return uint64 (count,): the generator's first numbers from 0, made odd; read only."""
    state = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    numbers = (state ^ (state >> np.uint64(31))) | np.uint64(1)
    numbers.flags.writeable = False
    return numbers
