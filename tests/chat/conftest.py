"""A model made of a script, a store on disk, and tiny checkpoints: what the chat's tests talk to."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from engine import Step
from niels_gpt.chat.settings import Settings
from sessions import Store, open_store

Script = Callable[[], Iterable[str]]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


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
    """Satisfies conversation.Model; answers each request with the next script."""

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
        return {"fingerprint": self.fingerprint, "parts": {}, "config": {}, "step": 1, "path": "x.pt"}

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


@pytest.fixture
def scripted() -> Callable[..., ScriptedModel]:
    """Make a model from one script a reply; after the last it repeats "ok"."""

    def make(*scripts: Iterable[str], **values: Any) -> ScriptedModel:
        return ScriptedModel(itertools.chain(scripts, itertools.repeat(["ok"])), **values)

    return make


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "sessions.db") as opened:
        yield opened


class Ear:
    """A Listener that remembers, and may do something at each piece of text."""

    def __init__(self, on_text: Callable[[str], None] = lambda delta: None) -> None:
        self.heard: list[str] = []
        self.dropped: list[int] = []
        self._on_text = on_text

    def text(self, delta: str) -> None:
        self.heard.append(delta)
        self._on_text(delta)

    def trimmed(self, turns: int) -> None:
        self.dropped.append(turns)


@pytest.fixture
def ear() -> type[Ear]:
    return Ear


def _save(path: Path, *, pieces: int | None) -> Path:
    import torch  # noqa: PLC0415 - only the tests that start the program need it

    from niels_gpt.bpe import train_bpe  # noqa: PLC0415
    from niels_gpt.checkpoint import save_checkpoint  # noqa: PLC0415
    from niels_gpt.config import ModelConfig, TrainConfig  # noqa: PLC0415
    from niels_gpt.model.gpt import GPT  # noqa: PLC0415

    tokenizer = None if pieces is None else train_bpe(["the kv cache of niels-gpt " * 20], pieces)
    V = 256 if tokenizer is None else tokenizer.vocab_size
    cfg = ModelConfig(V=V, T=512, C=16, L=1, H=1, d_ff=32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT(cfg)
    save_checkpoint(
        path,
        model_cfg=cfg,
        train_cfg=TrainConfig(),
        model=model,
        optimizer=None,
        step=1,
        best_val_loss=None,
        tokenizer=tokenizer,
    )
    return path


@pytest.fixture(scope="session")
def byte_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _save(tmp_path_factory.mktemp("checkpoint") / "bytes.pt", pieces=None)


@pytest.fixture(scope="session")
def bpe_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _save(tmp_path_factory.mktemp("checkpoint") / "bpe.pt", pieces=280)
