"""A model made of a script, a store on disk, and tiny checkpoints: what the chat's tests talk to."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from niels_gpt.conversation.listener import Listener
from sessions import Store, open_store
from tests.chat.scripted_model import ScriptedModel
from tests.chat.typist import Typist


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


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


class Ear(Listener):
    """Listens, and remembers, and may do something at each piece of text."""

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

    from niels_gpt.model.checkpoint import save_checkpoint  # noqa: PLC0415
    from niels_gpt.model.config import ModelConfig, TrainConfig  # noqa: PLC0415
    from niels_gpt.model.gpt import GPT  # noqa: PLC0415
    from niels_gpt.text.bpe import train_bpe  # noqa: PLC0415

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


@pytest.fixture
def typist(tmp_path: Path) -> Typist:
    return Typist(tmp_path)
