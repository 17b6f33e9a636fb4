"""What the decode benchmark times: the kernels, torch and, where installed, peers; each in its own process.

A process of its own keeps one candidate's threads out of another's way: OpenMP's threads go on spinning
after their work, and torch's collapse where another library's run too. Each candidate checks itself before
it is timed: its logits against those of the plain torch model.

B streams, V vocabulary.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Protocol

import numpy as np

from bench.models import SHAPES, random_model, random_prompts
from niels_gpt.kernels import WeightForm
from niels_gpt.model.config import ModelConfig

if TYPE_CHECKING:
    from niels_gpt.model.gpt import GPT

Prompts = Sequence[Sequence[int]]
"""B prompts of one length, as token ids."""
CHECKED_STREAMS, CHECKED_TOKENS = 3, 40


class Candidate(Protocol):
    """One way to decode, on a fixed number of threads; times in seconds."""

    def logits(self, prompts: Prompts) -> np.ndarray:
        """(B, V) after the last token of each prompt, which is read as a decode step if that can be."""
        ...

    def first_token(self, prompt: Sequence[int]) -> float:
        """Time from a prompt to the first token of its reply."""
        ...

    def decode(self, prompts: Prompts, new_tokens: int) -> float:
        """Time of greedy replies of `new_tokens` tokens, from their first token to their last."""
        ...


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A candidate's place in the code, what it needs installed, and how far its logits may be off."""

    maker: str
    """The module whose `make(model, *, threads, form)` gives the candidate."""
    form: WeightForm = "float32"
    needs: tuple[str, ...] = ()

    @property
    def installed(self) -> bool:
        """Whether all that it needs is there."""
        return all(importlib.util.find_spec(name) is not None for name in self.needs)

    @property
    def farthest(self) -> float:
        """By how much a logit may differ from torch's; weights of eight bits are other weights, if close."""
        return 1e-3 if self.form == "float32" else 0.1


KINDS = {
    "kernels": Kind(maker="bench.kernel_candidate"),
    "kernels int8": Kind(maker="bench.kernel_candidate", form="int8"),
    "eager": Kind(maker="bench.eager"),
    "transformers": Kind(maker="bench.peers.transformers_neox", needs=("transformers",)),
    "llama.cpp f32": Kind(maker="bench.peers.llama_cpp", needs=("llama_cpp", "gguf")),
    "llama.cpp q8_0": Kind(maker="bench.peers.llama_cpp", needs=("llama_cpp", "gguf"), form="int8"),
}


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """Decode until `seconds` have been timed; replies of `new_tokens`, of which the first is not counted."""

    streams: int
    prompt: int
    """Tokens of each prompt."""
    new_tokens: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class FirstToken:
    """Read a prompt of that many tokens and draw one."""

    prompt: int


class Worker:
    """A candidate in a process of its own; idle, it waits on a pipe and uses no processor."""

    def __init__(self, kind: str, model: str, threads: int) -> None:
        self.kind, self.threads = kind, threads
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, kind, model, threads), daemon=True)
        self._process.start()
        theirs.close()

    def ready(self) -> float:
        """Wait until the candidate is made; by how much its logits differ from the torch model's.

        Infinity if it cannot be made; its process says why on standard error.
        """
        try:
            return self._pipe.recv()
        except EOFError:
            return math.inf

    def ask(self, question: Decoding | FirstToken) -> float:
        """Tokens a second of all streams together, or seconds to the first token."""
        self._pipe.send(question)
        return self._pipe.recv()

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join()


def _serve(pipe: Connection, kind: str, model_name: str, threads: int) -> None:
    cfg, form = SHAPES[model_name], KINDS[kind].form
    model = random_model(cfg)
    candidate: Candidate = importlib.import_module(KINDS[kind].maker).make(model, threads=threads, form=form)
    pipe.send(_difference(candidate, model))
    while True:
        try:
            question = pipe.recv()
        except EOFError:
            return
        if isinstance(question, Decoding):
            pipe.send(_decode(candidate, cfg, question))
        else:
            pipe.send(candidate.first_token(random_prompts(cfg, streams=1, length=question.prompt)[0]))


def _decode(candidate: Candidate, cfg: ModelConfig, wanted: Decoding) -> float:
    prompts = random_prompts(cfg, streams=wanted.streams, length=wanted.prompt)
    took, tokens = 0.0, 0
    while not tokens or took < wanted.seconds:
        took += candidate.decode(prompts, wanted.new_tokens)
        tokens += wanted.streams * (wanted.new_tokens - 1)
    return tokens / took


def _difference(candidate: Candidate, model: GPT) -> float:
    """The largest difference of a logit from the plain model's forward pass."""
    import torch  # noqa: PLC0415 - the process that asks need not have it

    prompts = random_prompts(model.cfg, streams=CHECKED_STREAMS, length=CHECKED_TOKENS)
    with torch.inference_mode():
        expected = model(torch.tensor(prompts))[:, -1].numpy()
    return float(np.abs(candidate.logits(prompts) - expected).max())
