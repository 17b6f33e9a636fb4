"""The kernels as the decode benchmark times them: behind their decoder, without an engine.

All that a reply costs is in it: the tokens' text, the hash over logits, the work in Python between calls. All
prompts are read in one step, so that all streams stand at the same position, as the other candidates' do.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from bench.candidates import Prompts
from bench.models import tokenizer_for
from niels_gpt.decoding.kernel_decoder import KernelDecoder, KernelSequence
from niels_gpt.decoding.request import GenerationRequest
from niels_gpt.kernels import WeightForm
from niels_gpt.kernels.gpt_packing import pack_gpt
from niels_gpt.model.gpt import GPT
from niels_gpt.sampling import Sampling

GREEDY = Sampling(temperature=0.0)


class KernelCandidate:
    """`KernelDecoder` with a number of threads, or with its default; see `bench.candidates.Candidate`."""

    def __init__(
        self, model: GPT, *, threads: int | None, form: WeightForm, sampling: Sampling = GREEDY
    ) -> None:
        self.packed = pack_gpt(model, form)
        self._sampling = sampling
        self._tokenizer = tokenizer_for(model.cfg)
        self._threads = threads
        self._chunk: int | None = None
        self._decoder = self._new_decoder(None)

    def logits(self, prompts: Prompts) -> np.ndarray:
        """(B, V) of the rows that the first tokens are drawn from."""
        decoder, rows = self._decoder_with(chunk=sum(map(len, prompts))), []
        live = [decoder.admit(self._request(prompt, 1)) for prompt in prompts]
        for sequence in live:
            sequence.reply.watch = lambda row: rows.append(row.copy())
        advance(decoder, live)
        release(decoder, live)
        return np.stack(rows)

    def first_token(self, prompt: Sequence[int]) -> float:
        """In the portions that a chat uses; no prompt is found in a pool."""
        decoder = self._decoder_with(chunk=None)
        began = time.perf_counter()
        live = [decoder.admit(self._request(prompt, 2))]
        while not live[0].reply.reply_tokens:
            advance(decoder, live)
        took = time.perf_counter() - began
        release(decoder, live)
        return took

    def decode(self, prompts: Prompts, new_tokens: int) -> float:
        """Several steps a call, as the decoder sees fit."""
        decoder = self._decoder_with(chunk=sum(map(len, prompts)))
        live = [decoder.admit(self._request(prompt, new_tokens)) for prompt in prompts]
        advance(decoder, live)
        began = time.perf_counter()
        while not advance(decoder, live):
            pass
        took = time.perf_counter() - began
        release(decoder, live)
        return took

    def _request(self, prompt: Sequence[int], new_tokens: int) -> GenerationRequest:
        """A reply of exactly that many tokens."""
        return GenerationRequest(
            prompt_ids=tuple(prompt), max_new_tokens=new_tokens, sampling=self._sampling, seed=0,
            stop_ids=frozenset(), stop_sequences=(), banned_ids=frozenset(),
        )  # fmt: skip

    def _decoder_with(self, *, chunk: int | None) -> KernelDecoder:
        if chunk != self._chunk:
            self._decoder.close()
            self._chunk, self._decoder = chunk, self._new_decoder(chunk)
        return self._decoder

    def _new_decoder(self, chunk: int | None) -> KernelDecoder:
        return KernelDecoder(  # without a pool: every prompt is read whole, as the other candidates read it
            self.packed, self._tokenizer, prefill_chunk=chunk, threads=self._threads, prefix_cache_bytes=0
        )


def make(model: GPT, *, threads: int, form: WeightForm) -> KernelCandidate:
    """The candidate of this module."""
    return KernelCandidate(model, threads=threads, form=form)


def advance(decoder: KernelDecoder, live: Sequence[KernelSequence]) -> bool:
    """One call; whether the replies, all of one length, have ended."""
    steps = decoder.advance(live)
    for step in steps:
        if step.error is not None:
            raise step.error
    return steps[0].finish is not None


def release(decoder: KernelDecoder, live: Sequence[KernelSequence]) -> None:
    """End all replies."""
    for sequence in live:
        decoder.release(sequence)
