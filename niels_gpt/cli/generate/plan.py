"""Describe how prompts are continued: sampling, number of samples, where a reply ends, its seed."""

from __future__ import annotations

from dataclasses import dataclass

from niels_gpt.cli.generate.prompts import Prompt
from niels_gpt.decoding.request import GenerationRequest
from niels_gpt.rng import reply_seed
from niels_gpt.sampling import Sampling


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How each prompt is continued."""

    sampling: Sampling
    max_new_tokens: int
    samples: int
    seed: int
    stop_ids: frozenset[int]
    stop_sequences: tuple[bytes, ...]
    banned_ids: frozenset[int]

    def seed_of(self, prompt: Prompt, sample: int) -> int:
        """Return the seed of a sample: a function of (--seed, line, sample) only."""
        return reply_seed(self.seed, prompt.index, sample)

    def request(self, prompt: Prompt, sample: int) -> GenerationRequest | None:
        """Return the request for one sample of a prompt, or None where no token is wanted."""
        if self.max_new_tokens == 0:
            return None
        return GenerationRequest(
            prompt_ids=prompt.ids,
            max_new_tokens=self.max_new_tokens,
            sampling=self.sampling,
            seed=self.seed_of(prompt, sample),
            stop_ids=self.stop_ids,
            stop_sequences=self.stop_sequences,
            banned_ids=self.banned_ids,
        )
