"""Draw the uniform numbers of a reply: the doubles of a seeded CPU `torch.Generator`, without torch.

torch's CPU generator is MT19937 (Matsumoto and Nishimura 1998, doi.org/10.1145/272991.272995), initialised
with the low 32 bits of its seed. A double takes two of its 32-bit outputs, the first as the high half, and
keeps the low 53 bits of the 64. numpy's `RandomState` is the same generator with the same initialisation, and
numpy's compatibility policy freezes its stream.
"""

from __future__ import annotations

import numpy as np

_MASK_32, _MASK_53 = 2**32 - 1, np.uint64(2**53 - 1)


class UniformGenerator:
    """A seeded stream of float64 in [0, 1); however it is asked for, the numbers are the same."""

    def __init__(self, seed: int) -> None:
        """Start the stream of `seed`, of which the low 32 bits count, as in torch."""
        self._words = np.random.RandomState(seed & _MASK_32)

    def uniforms(self, count: int) -> np.ndarray:
        """Return the next `count` numbers, float64 (count,).

        They are those of `torch.rand(count, dtype=torch.float64, generator=generator)`.
        """
        words = self._words.randint(0, 2**32, size=(count, 2), dtype=np.uint32).astype(np.uint64)
        return (((words[:, 0] << np.uint64(32)) | words[:, 1]) & _MASK_53) * 2.0**-53
