"""Open a model for generation: the decoder for samples, beam search on the torch model."""

from __future__ import annotations

import itertools
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from niels_gpt.cli.generate.openai_batch import parse_request
from niels_gpt.cli.generate.options import PROGRAM, GenerateOptions
from niels_gpt.cli.generate.plan import Plan
from niels_gpt.cli.generate.prompts import Completion, Prompt, PromptEncoder, PromptError
from niels_gpt.decoding.backend import Backend, open_backend
from niels_gpt.device import device_named, torch_device
from niels_gpt.generation.batch import Reply, generate_replies
from niels_gpt.generation.options import GenerationOptions
from niels_gpt.model.catalogue import is_from_elsewhere
from niels_gpt.model.loading import LoadedModel, load_model
from niels_gpt.program import report
from niels_gpt.sampling import Sampling
from niels_gpt.text.chat_template import TranscriptTemplate
from niels_gpt.text.detokenizer import Detokenizer
from niels_gpt.text.model_template import RawTemplate
from niels_gpt.text.system_prompt import DEFAULT_SYSTEM_PROMPT

if TYPE_CHECKING:
    from niels_gpt.generation.batched_decoder import SteppableModel


def make_plan(options: GenerateOptions) -> Plan:
    """Return how prompts are continued, as far as flags decide it; ValueError for a value out of range."""
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
    """A loaded model with its decoder, and the command's options."""

    loaded: LoadedModel
    backend: Backend
    options: GenerateOptions

    @property
    def is_of_chats(self) -> bool:
        """Whether the model was trained to answer in a form of its own."""
        return self.loaded.template.name not in {TranscriptTemplate.name, RawTemplate.name}

    @property
    def answers(self) -> bool:
        """Whether a text is a message that is answered: a model of chats does, unless --raw is given."""
        return self.is_of_chats if self.options.chat is None else self.options.chat

    @property
    def system(self) -> str:
        """The system prompt of answers; "" for none."""
        if self.options.system is not None:
            return self.options.system
        path = self.options.model
        return "" if path is not None and is_from_elsewhere(path) else DEFAULT_SYSTEM_PROMPT

    @property
    def encoder(self) -> PromptEncoder:
        """The encoder of prompts."""
        return PromptEncoder(
            tokenizer=self.loaded.tokenizer,
            template=self.loaded.template,
            answers=self.answers,
            system=self.system,
            context=self.loaded.cfg.context,
            room=min(1, self.options.max_new_tokens),
        )

    @property
    def identity(self) -> tuple[object, ...]:
        """Everything besides flags and prompts that decides a reply's bits, the arithmetic included."""
        environment = self.backend.environment
        names = ("path", "device", "weights", "kernel_version")
        arithmetic = [environment.get(name) for name in names]
        if environment.get("path") == "torch":
            arithmetic.append(environment.get("torch"))
        return (self.backend.fingerprint.digest, *arithmetic)

    def complete(self, plan: Plan) -> Plan:
        """Add the template's end tokens, unless one was given, and the tokens that are never generated."""
        template = self.loaded.template
        stops = plan.stop_ids or template.stop_ids
        plan = replace(plan, stop_ids=stops, banned_ids=plan.banned_ids | (template.banned_ids - stops))
        if self.answers:
            plan = replace(plan, stop_sequences=plan.stop_sequences + template.stop_sequences)
        return plan

    def completions(self, prompts: Iterable[Prompt], plan: Plan) -> Iterator[tuple[Prompt, list[Completion]]]:
        """Yield each prompt with its samples, in order; prompts are read as slots become free.

        A request of an OpenAI batch that fails has its error as its only sample.

        Raises:
            PromptError: Another prompt fails; the message names it.

        """
        if self.options.num_beams > 1 and plan.max_new_tokens:
            yield from self._search(prompts, plan)
            return
        waiting: deque[tuple[Prompt, Plan, Exception | None]] = deque()
        encoder = self.encoder

        def requests() -> Iterator[object]:
            for prompt in prompts:
                own, settings, error = prompt, plan, None
                if prompt.batch_request is not None:
                    try:
                        request = parse_request(prompt, encoder, plan)
                    except PromptError as fault:
                        error, settings = fault, replace(plan, samples=1, max_new_tokens=0)
                    else:
                        own, settings = request.prompt, request.plan
                waiting.append((own, settings, error))
                for sample in range(settings.samples):
                    yield settings.request(own, sample)

        found = generate_replies(
            self.backend.decoder,
            requests(),  # pyright: ignore[reportArgumentType] # an iterator of requests
            batch_size=self.options.batch_size,
        )
        with closing(found):
            for first in found:
                prompt, settings, error = waiting.popleft()
                replies = [first, *itertools.islice(found, settings.samples - 1)]
                yield (
                    prompt,
                    [
                        self._completion(prompt, settings, sample, reply, error)
                        for sample, reply in enumerate(replies)
                    ],
                )

    def _completion(
        self, prompt: Prompt, plan: Plan, sample: int, reply: Reply, error: Exception | None
    ) -> Completion:
        error = error or reply.error
        if error is not None and prompt.batch_request is None:
            raise PromptError(f"line {prompt.index + 1}: {error}") from error
        return Completion(
            prompt=prompt,
            sample=sample,
            text=reply.text,
            ids=reply.token_ids,
            finish=reply.finish,
            seed=plan.seed_of(prompt, sample) if plan.max_new_tokens else None,
            error=error,
        )

    def stream(self, prompt: Prompt, plan: Plan, show: Callable[[str], None]) -> Reply:
        """Show the text of one reply as it is generated, and return the reply."""
        requests = [plan.request(prompt, 0)]
        [reply] = generate_replies(self.backend.decoder, requests, on_text=show)
        if reply.error is not None:
            raise PromptError(str(reply.error)) from reply.error
        return reply

    def _search(self, prompts: Iterable[Prompt], plan: Plan) -> Iterator[tuple[Prompt, list[Completion]]]:
        from niels_gpt.generation.beam import beam_search  # noqa: PLC0415 - torch

        wanted = _beam_options(self.options, plan)
        at_once = max(1, self.options.batch_size // wanted.num_beams)
        prompts = iter(prompts)
        while some := list(itertools.islice(prompts, at_once)):
            found = beam_search(
                cast("SteppableModel", self.loaded.model), [prompt.ids for prompt in some], wanted
            )
            for prompt, beams in zip(some, found, strict=True):
                yield prompt, [self._beam(prompt, i, beam.new_ids, plan) for i, beam in enumerate(beams)]

    def _beam(self, prompt: Prompt, sample: int, ids: Sequence[int], plan: Plan) -> Completion:
        text = Detokenizer(self.loaded.tokenizer.token_bytes, plan.stop_sequences)
        whole = "".join(map(text.push, ids)) + text.finish()
        return Completion(prompt=prompt, sample=sample, text=whole, ids=tuple(ids), finish="beam", seed=None)


@contextmanager
def opened(options: GenerateOptions) -> Iterator[OpenModel]:
    """Load the model and open its decoder, which is closed at the end.

    Raises:
        ValueError: CheckpointError and others; the message says what is wrong.

    """
    assert options.model is not None  # noqa: S101 - the parser requires it
    device = device_named(options.device)
    loaded = load_model(options.model, device=torch_device(device))
    if options.vocab_size is not None and options.vocab_size != loaded.cfg.V:
        raise PromptError(f"--vocab_size is {options.vocab_size}, the checkpoint has {loaded.cfg.V} ids")
    backend = open_backend(
        loaded, device=device, weights=options.weights, threads=options.threads, on_progress=_say_preparing
    )
    try:
        if backend.notice is not None:
            report(PROGRAM, backend.notice)
        yield OpenModel(loaded=loaded, backend=backend, options=options)
    finally:
        backend.close()


def _say_preparing(done: int, total: int) -> None:
    if done == 0:
        print(f"preparing {total} kernels for this processor (once) ...", file=sys.stderr, flush=True)
