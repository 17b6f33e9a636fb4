"""Sample one token for each row and step, until each row has ended.

Every row has its own generator, so its tokens depend on its seed and not on the other rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from niels_gpt.generation.batched_decoder import BatchedDecoder, SteppableModel
from niels_gpt.generation.options import GenerationOptions
from niels_gpt.rng import make_generator
from niels_gpt.sampling import draw

TokenBytes = Callable[[int], bytes]


def row_seeds(count: int, generator: torch.Generator | None) -> list[int]:
    """Draw a seed for each row, from `generator` or from torch's global one."""
    return torch.randint(2**63 - 1, (count,), dtype=torch.int64, generator=generator).tolist()


def sampled_steps(
    model: SteppableModel,
    prompts: Sequence[Sequence[int]],
    options: GenerationOptions,
    *,
    seeds: Sequence[int],
    token_bytes: TokenBytes | None = None,
) -> Iterator[dict[int, int]]:
    """Continue every prompt; yield, step by step, the new token of each unfinished row, by its number.

    `token_bytes` is needed for stop sequences. The logits of one step are computed together.
    """
    decoder = BatchedDecoder(model, prompts, new_tokens=options.max_new_tokens)
    generators = [make_generator(seed) for seed in seeds]
    ends = [_End(options, token_bytes) for _ in prompts]
    live = list(range(len(prompts)))
    for _ in range(options.max_new_tokens):
        rows = decoder.logits()
        chosen = [
            draw(rows[i], options.sampling, decoder.rows[i], options.banned_ids, generators[number])
            for i, number in enumerate(live)
        ]
        decoder.append(chosen)
        yield dict(zip(live, chosen, strict=True))
        going = [i for i, number in enumerate(live) if not ends[number].ends_with(chosen[i])]
        live = [live[i] for i in going]
        if not live:
            return
        decoder.keep(going)


class _End:
    """Detects the end of a row."""

    def __init__(self, options: GenerationOptions, token_bytes: TokenBytes | None) -> None:
        self._options = options
        self._token_bytes = token_bytes
        self._tail = b""
        self._longest = max(map(len, options.stop_sequences), default=0)

    def ends_with(self, token_id: int) -> bool:
        """Add a token; return whether the row ends with it."""
        if token_id in self._options.stop_ids:
            return True
        if self._token_bytes is None or not self._longest:
            return False
        fresh = self._token_bytes(token_id)
        self._tail = self._tail[-self._longest :] + fresh
        return any(stop in self._tail for stop in self._options.stop_sequences)
