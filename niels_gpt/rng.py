"""Seeds and generators: all randomness of the product comes from generators that are made from a seed.

`reply_seed` derives the seed of one reply, so that a reply can be generated again without its conversation.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

_MASK_32, _MASK_53 = 2**32 - 1, np.uint64(2**53 - 1)


def set_seed(seed: int) -> None:
    """Seed torch's global generators (initial weights and dropout); ValueError outside what torch takes."""
    import torch  # noqa: PLC0415 - a chat on the CPU draws its numbers without it

    torch.manual_seed(_checked(seed))


def make_generator(seed: int, device: str | torch.device | None = None) -> torch.Generator:
    """Return a new generator with this seed, on the CPU unless a device is named."""
    import torch  # noqa: PLC0415 - as above

    generator = torch.Generator(device="cpu" if device is None else device)
    return generator.manual_seed(_checked(seed))


def reply_seed(session_seed: int, turn: int, attempt: int) -> int:
    """Return the seed of one reply, in [0, 2**63).

    `turn` is the position of the reply on its path of messages, `attempt` counts from 0. The first 8 bytes
    (big-endian) of SHA-256 over the three numbers in decimal, with the top bit cleared: changing any of them
    changes the seed, and the function can be written again in any language.

    Generators keep the low 32 bits of a seed. Those of SHA-256 are as good as random, so no structure of the
    numbers is lost, but among some 65,000 replies two are likely to draw the same uniform numbers.
    """
    text = f"niels-gpt reply seed 1\0{session_seed}\0{turn}\0{attempt}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") & (2**63 - 1)


class UniformGenerator:
    """The uniform numbers of a reply: a seeded stream of float64 in [0, 1), the same in portions of any size.

    They are the doubles of a seeded CPU `torch.Generator`, drawn without torch. That generator is MT19937
    (Matsumoto and Nishimura 1998, doi.org/10.1145/272991.272995), initialised with the low 32 bits of its
    seed. A double takes two of its 32-bit outputs, the first as the high half, and keeps the low 53 bits of
    the 64. numpy's `RandomState` is the same generator with the same initialisation, and numpy's
    compatibility policy freezes its stream.
    """

    def __init__(self, seed: int) -> None:
        """Start the stream of `seed`, of which the low 32 bits count, as in torch."""
        self._words = np.random.RandomState(seed & _MASK_32)

    def uniforms(self, count: int) -> np.ndarray:
        """Return the next `count` numbers, float64 (count,).

        They are those of `torch.rand(count, dtype=torch.float64, generator=generator)`.
        """
        words = self._words.randint(0, 2**32, size=(count, 2), dtype=np.uint32).astype(np.uint64)
        return (((words[:, 0] << np.uint64(32)) | words[:, 1]) & _MASK_53) * 2.0**-53


def _checked(seed: int) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int) or not -(2**63) <= seed < 2**64:
        raise ValueError(f"the seed is {seed!r}, expected a whole number from -2**63 to 2**64 - 1")
    return seed
