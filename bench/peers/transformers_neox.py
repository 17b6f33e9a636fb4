"""Hugging Face transformers with the same weights, as a GPT-NeoX: a peer of the decode benchmark.

The weights are those that `niels_gpt.model.hf` exports. Needs `transformers`, which nothing else here does.

B streams, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.candidates import Prompts
from niels_gpt.kernels import WeightForm
from niels_gpt.model.gpt import GPT
from niels_gpt.model.hf.forms import hf_config
from niels_gpt.model.hf.weights import to_hf


class Stopwatch:
    """A stopping criterion that never stops: it notes when the first token was there."""

    def __init__(self) -> None:
        self.first: float | None = None

    def __call__(self, ids: Tensor, _scores: object, **_more: object) -> Tensor:
        """Called by `generate` after every token."""
        if self.first is None:
            self.first = time.perf_counter()
        return torch.zeros(len(ids), dtype=torch.bool)


class TransformersCandidate:
    """`generate`, greedy, with its own cache; see `bench.candidates.Candidate`."""

    def __init__(self, model: GPT, *, threads: int) -> None:
        torch.set_num_threads(threads)
        self._model = as_gpt_neox(model)

    @torch.inference_mode()
    def logits(self, prompts: Prompts) -> np.ndarray:
        """(B, V) after a prompt and one step with its cache."""
        ids = torch.tensor(prompts)
        cache = self._model(ids[:, :-1], use_cache=True).past_key_values
        return self._model(ids[:, -1:], past_key_values=cache).logits[:, -1].numpy()

    def first_token(self, prompt: Sequence[int]) -> float:
        """A call that gives one token."""
        began = time.perf_counter()
        self._generate([prompt], 1)
        return time.perf_counter() - began

    def decode(self, prompts: Prompts, new_tokens: int) -> float:
        """What one call takes after its first token."""
        watch = Stopwatch()
        self._generate(prompts, new_tokens, stopping_criteria=[watch])
        return time.perf_counter() - (watch.first or 0.0)

    def _generate(self, prompts: Prompts, new_tokens: int, **more: Any) -> None:
        ids = torch.tensor(prompts)
        self._model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new_tokens, **more
        )


def make(model: GPT, *, threads: int, form: WeightForm) -> TransformersCandidate:  # noqa: ARG001 - float32 only
    """The candidate of this module."""
    return TransformersCandidate(model, threads=threads)


def as_gpt_neox(model: GPT) -> Any:
    """The same function of token ids, as a `GPTNeoXForCausalLM`."""
    # An extra, and seconds to import.
    from transformers import (  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
        GPTNeoXConfig,
        GPTNeoXForCausalLM,
        logging,
    )

    logging.set_verbosity_error()
    config = GPTNeoXConfig.from_dict(hf_config(model.cfg))
    peer = GPTNeoXForCausalLM(config).eval()
    # Not strict: the head is tied to the embedding. Logits get compared anyway.
    peer.load_state_dict(to_hf(model.state_dict(), model.cfg), strict=False)
    peer.tie_weights()
    return peer
