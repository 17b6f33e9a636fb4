"""A model made of a script: stands for a ChatModel without a checkpoint and without torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine import Step
from niels_gpt.conversation.settings import Settings
from sessions.digest import PARTS, fingerprint_of


@dataclass
class ScriptedRequest:
    """What the conversation asked for, and the pieces that answer it."""

    prompt_ids: tuple[int, ...]
    settings: Settings
    seed: int
    pieces: Iterable[str]
    forced_ids: tuple[int, ...] = ()


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
    """Stands for a ChatModel; answers each request with the next script."""

    scripts: Iterator[Iterable[str]]
    context_length: int = 1000
    fingerprint: str = "f1"
    requests: list[ScriptedRequest] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.template = WordTemplate()
        self.decoder = ScriptedDecoder()
        self.environment: Mapping[str, object] = {"path": "script"}
        self.notice: str | None = None
        self.closed = False

    @property
    def checkpoint(self) -> dict[str, Any]:
        parts = dict.fromkeys(PARTS, self.fingerprint)
        fingerprint = fingerprint_of(parts)
        return {"fingerprint": fingerprint, "parts": parts, "config": {}, "step": 1, "path": "x.pt"}

    def reply_seed(self, session_seed: int, turn: int, attempt: int) -> int:
        return session_seed * 10_000 + turn * 100 + attempt

    def request(
        self,
        *,
        prompt_ids: tuple[int, ...],
        settings: Settings,
        seed: int,
        forced_ids: tuple[int, ...] = (),
    ) -> ScriptedRequest:
        made = ScriptedRequest(prompt_ids, settings, seed, next(self.scripts), forced_ids)
        self.requests.append(made)
        return made

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(len(word) for word in text.split())

    def close(self) -> None:
        self.closed = True
