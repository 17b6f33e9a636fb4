"""A model opened for generation: the engine for samples, the model's own methods for beams.

The only module of this package that imports torch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import cast

import torch

from niels_gpt.cli.generate.options import GenerateOptions
from niels_gpt.cli.generate.prompts import Completion, Prompt
from niels_gpt.cli.generate.replies import Plan, Take, replies, streamed
from niels_gpt.conversation.errors import ChatError
from niels_gpt.decoding.backend import Backend, open_backend
from niels_gpt.device import device_named
from niels_gpt.generation.batched_decoder import SteppableModel
from niels_gpt.generation.beam import beam_search
from niels_gpt.generation.options import GenerationOptions
from niels_gpt.model.loading import LoadedModel, load_model
from niels_gpt.sampling import Sampling
from niels_gpt.text.detokenizer import Detokenizer
from niels_gpt.text.tokenizer import Tokenizer


def make_plan(options: GenerateOptions) -> Plan:
    """Return how prompts are continued, as far as flags say; ValueError for a value out of range."""
    sampling = Sampling(
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        typical_p=options.typical_p,
        repetition_penalty=options.repetition_penalty,
        frequency_penalty=options.frequency_penalty,
        presence_penalty=options.presence_penalty,
    )
    plan = Plan(
        sampling=sampling,
        max_new_tokens=options.max_new_tokens,
        samples=options.num_return_sequences,
        seed=options.seed,
        stop_ids=frozenset() if options.eos_token_id is None else frozenset({options.eos_token_id}),
        stop_sequences=tuple(stop.encode() for stop in options.stop),
        banned_ids=frozenset(options.ban),
    )
    if options.num_beams > 1:
        _beam_options(options, plan)
    elif not all(plan.stop_sequences):
        raise ValueError("--stop is empty, expected some text")
    return plan


def _beam_options(options: GenerateOptions, plan: Plan) -> GenerationOptions:
    return GenerationOptions(
        max_new_tokens=plan.max_new_tokens,
        sampling=plan.sampling,
        num_return_sequences=plan.samples,
        stop_ids=plan.stop_ids,
        stop_sequences=plan.stop_sequences,
        banned_ids=plan.banned_ids,
        num_beams=options.num_beams,
        length_penalty=options.length_penalty,
    )


@dataclass(frozen=True, kw_only=True)
class OpenModel:
    """What continues prompts."""

    loaded: LoadedModel
    backend: Backend
    options: GenerateOptions

    @property
    def tokenizer(self) -> Tokenizer:
        """What turns text into ids."""
        return self.loaded.tokenizer

    @property
    def context(self) -> int:
        """Most tokens of prompt and reply together."""
        return self.loaded.cfg.context

    @property
    def fingerprint(self) -> str:
        """Digest of what decides a reply beside the plan."""
        return self.backend.fingerprint.digest

    def complete(self, plan: Plan) -> Plan:
        """Add what the model's template says: its end token unless one was given, tokens never said."""
        template = self.loaded.template
        stops = plan.stop_ids or template.stop_ids
        return replace(plan, stop_ids=stops, banned_ids=plan.banned_ids | (template.banned_ids - stops))

    async def replies(self, prompts: Sequence[Prompt], plan: Plan, take: Take) -> None:
        """Continue prompts; the samples of each go to `take` together, in the order of the prompts."""
        if self.options.num_beams > 1 and plan.max_new_tokens:
            self._search(prompts, plan, take)
        else:
            await replies(self.backend, prompts, plan, take, batch_size=self.options.batch_size)

    async def stream(self, prompt: Prompt, plan: Plan, show: Callable[[str], None]) -> None:
        """Show one continuation as it comes."""
        await streamed(self.backend, prompt, plan, show)

    def _search(self, prompts: Sequence[Prompt], plan: Plan, take: Take) -> None:
        wanted = _beam_options(self.options, plan)
        at_once = max(1, self.options.batch_size // wanted.num_beams)
        for first in range(0, len(prompts), at_once):
            some = prompts[first : first + at_once]
            found = beam_search(
                cast("SteppableModel", self.loaded.model), [prompt.ids for prompt in some], wanted
            )
            for prompt, beams in zip(some, found, strict=True):
                take([self._reply(prompt, i, beam.new_ids, plan) for i, beam in enumerate(beams)])

    def _reply(self, prompt: Prompt, sample: int, ids: tuple[int, ...], plan: Plan) -> Completion:
        text = Detokenizer(self.tokenizer.token_bytes, plan.stop_sequences)
        whole = "".join(map(text.push, ids)) + text.finish()
        return Completion(prompt=prompt, sample=sample, text=whole, ids=ids, finish="beam", seed=None)


@contextmanager
def opened(options: GenerateOptions) -> Iterator[OpenModel]:
    """Load the model and open its backend, closed at the end. Raises CheckpointError and ChatError."""
    device = device_named(options.device)
    torch.set_num_threads(1)  # the engine's thread owns the compute; see niels_gpt.conversation.model
    loaded = load_model(options.model, device=device)
    if options.vocab_size is not None and options.vocab_size != loaded.cfg.V:
        raise ChatError(f"--vocab_size is {options.vocab_size}, the checkpoint has {loaded.cfg.V} ids")
    backend = open_backend(loaded, device=device, threads=options.threads, on_progress=_say_preparing)
    try:
        yield OpenModel(loaded=loaded, backend=backend, options=options)
    finally:
        backend.close()


def _say_preparing(done: int, total: int) -> None:
    if done == 0:
        print(f"preparing {total} kernels for this processor (once) ...", file=sys.stderr, flush=True)
