"""Draw batches of windows from streams of bytes, mixed by probability.

All randomness comes from the torch generator of the caller, so the same state gives the same batch. A stream
may be memory-mapped: only the windows are read.

B windows, T tokens a window.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

Stream = bytes | bytearray | memoryview
SUM_TOLERANCE = 1e-6


def get_batch(
    sources: Mapping[str, Stream],
    *,
    p: Mapping[str, float],
    B: int,
    T: int,
    device: str | torch.device,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Return inputs x and next-byte targets y, both (B, T) int64 on `device`.

    Each row is a window at a uniform position of a source drawn with the probabilities `p`. The order of the
    sources does not matter. Without a generator, torch's global one is used.

    Raises:
        ValueError: The keys of `p` and `sources` differ, probabilities are negative or do not sum to 1, a
            count is below 1, or a source has at most T bytes.

    """
    _check(sources, p, B=B, T=T)
    names = sorted(sources)
    tokens = [np.frombuffer(sources[name], dtype=np.uint8) for name in names]
    # Two uniforms a row, for source and position; float64 reaches every position of a large file.
    drawn_on = "cpu" if generator is None else generator.device
    draws = torch.rand(2, B, dtype=torch.float64, generator=generator, device=drawn_on).cpu().numpy()
    bounds = np.cumsum([p[name] for name in names])
    picks = np.searchsorted(bounds[:-1] / bounds[-1], draws[0], side="right")
    windows = np.empty((B, T + 1), dtype=np.int64)
    for row, (pick, place) in enumerate(zip(picks, draws[1], strict=True)):
        stream = tokens[pick]
        start = int(place * (len(stream) - T))
        windows[row] = stream[start : start + T + 1]
    batch = torch.from_numpy(windows).to(device)
    return batch[:, :-1], batch[:, 1:]


def _check(sources: Mapping[str, Stream], p: Mapping[str, float], *, B: int, T: int) -> None:
    if B < 1 or T < 1:
        raise ValueError(f"got B={B!r}, T={T!r}, expected both at least 1")
    if not sources:
        raise ValueError("there is no source, expected at least one stream to draw from")
    if sources.keys() != p.keys():
        raise ValueError(
            f"the sources are {sorted(sources)}, the probabilities name {sorted(p)}; expected the same names"
        )
    for name, share in p.items():
        if not math.isfinite(share) or share < 0.0:
            raise ValueError(f"the probability of {name!r} is {share!r}, expected a number of at least 0")
    total = sum(p.values())
    if abs(total - 1.0) > SUM_TOLERANCE:
        raise ValueError(f"the probabilities {dict(p)!r} sum to {total!r}, expected 1")
    for name, stream in sources.items():
        if len(stream) <= T:
            raise ValueError(
                f"the source {name!r} has {len(stream)} bytes, expected more than T={T}; add text or lower T"
            )
