"""A model made of a script: stands for a Backend without a checkpoint and without torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine import Step
from niels_gpt.sampling import Sampling
from sessions.digest import PARTS, fingerprint_of


@dataclass
class ScriptedRequest:
    """What the conversation asked for, and the pieces that answer it."""

    prompt_ids: tuple[int, ...]
    sampling: Sampling
    max_new_tokens: int
    seed: int
    pieces: Iterable[str]
    forced_ids: tuple[int, ...] = ()
    examples: tuple[tuple[int, ...], ...] = ()


class ScriptedDecoder:
    """One piece of the script a step; a piece that starts with an exclamation mark fails the job."""

    def admit(self, request: ScriptedRequest) -> Iterator[str]:
        return iter(request.pieces)

    def advance(self, sequences: Sequence[Iterator[str]]) -> list[Step]:
        return [self._step(next(pieces, None)) for pieces in sequences]

    def release(self, sequence: Iterator[str]) -> Mapping[str, object]:
        return {"path": "script"}

    def _step(self, piece: str | None) -> Step:
        if piece is None:
            return Step(tokens=[(0, "")], finish="stop")
        if piece.startswith("!"):
            return Step(error=RuntimeError(piece))
        return Step(tokens=[(1, piece)])


class WordTokenizer:
    """One id a word: its length."""

    def encode_ids(self, text: str) -> list[int]:
        return [len(word) for word in text.split()]


class WordTemplate:
    """One id a word and one a message, so that lengths can be counted by hand."""

    def prompt_ids(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        return [
            number
            for message in messages
            for number in [len(message["role"]), *(len(word) for word in message["content"].split())]
        ]


@dataclass
class ScriptedModel:
    """Stands for a Backend; answers each request with the next script."""

    scripts: Iterator[Iterable[str]]
    context_length: int = 1000
    fingerprint: str = "f1"
    drafts: bool = False
    requests: list[ScriptedRequest] = field(default_factory=list)
    environment: Mapping[str, object] = field(default_factory=lambda: {"path": "script"})

    def __post_init__(self) -> None:
        self.tokenizer = WordTokenizer()
        self.template = WordTemplate()
        self.decoder = ScriptedDecoder()
        self.notice: str | None = None
        self.closed = False

    @property
    def checkpoint(self) -> dict[str, Any]:
        parts = dict.fromkeys(PARTS, self.fingerprint)
        fingerprint = fingerprint_of(parts)
        return {"fingerprint": fingerprint, "parts": parts, "config": {}, "step": 1, "path": "x.pt"}

    def request(
        self,
        *,
        prompt_ids: tuple[int, ...],
        sampling: Sampling,
        max_new_tokens: int,
        seed: int,
        stop: Sequence[str] = (),
        forced_ids: tuple[int, ...] = (),
        examples: tuple[tuple[int, ...], ...] = (),
    ) -> ScriptedRequest:
        made = ScriptedRequest(
            prompt_ids, sampling, max_new_tokens, seed, next(self.scripts), forced_ids, examples
        )
        self.requests.append(made)
        return made

    def close(self) -> None:
        self.closed = True
