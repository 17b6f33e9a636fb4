"""A tiny model that is the same everywhere, and conversations with it that are recorded and replayed.

The weights are a formula over integers, so no library's random numbers can change them.
"""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import torch

from engine import Step
from niels_gpt.conversation.conversation import Conversation, converse
from niels_gpt.conversation.listener import Listener
from niels_gpt.conversation.opening import open_model
from niels_gpt.conversation.options import ChatOptions
from niels_gpt.conversation.session import ConversationSession
from niels_gpt.decoding.backend import Backend
from niels_gpt.model.checkpoint import save_checkpoint
from niels_gpt.model.config import ModelConfig, TrainConfig
from niels_gpt.model.gpt import GPT
from sessions import Store, open_store

Work = Callable[[Conversation], Awaitable[object]]
SETTINGS: dict[str, Any] = {"max_new_tokens": 24, "temperature": 1.0, "top_k": None, "seed": 5}


def integer_model(*, V: int = 256, T: int = 48) -> GPT:
    """A model in evaluation mode, its weights multiples of 1/256 from a multiplicative congruence."""
    cfg = ModelConfig(V=V, T=T, C=16, L=2, H=2, d_ff=24, norm="rmsnorm", mlp="swiglu")
    with torch.random.fork_rng(devices=[]):
        model = GPT(cfg)
    state = 1
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            numbers = np.empty(parameter.numel(), np.float32)
            for i in range(len(numbers)):
                state = state * 48271 % 2147483647
                numbers[i] = (state >> 8) % 257 - 128
            # Norm scales around 1, so that the signal lives; matrices large enough to have opinions.
            scaled = 1 + numbers / 512 if parameter.dim() == 1 else numbers / 256
            parameter.copy_(torch.from_numpy(scaled).reshape(parameter.shape))
    return model.eval()


def save_model(path: Path, model: GPT, *, tokenizer: Any = None) -> Path:
    """Write a checkpoint of a model, by default one that reads bytes."""
    save_checkpoint(
        path, model_cfg=model.cfg, train_cfg=TrainConfig(), model=model, optimizer=None, step=1,
        best_val_loss=None, tokenizer=tokenizer,
    )  # fmt: skip
    return path


def tiny_checkpoint(path: Path) -> Path:
    """Write the integer model with a window that holds a few turns and has to drop older ones."""
    return save_model(path, integer_model(T=320))


class Ear(Listener):
    """Listens, and may do something at each piece of text."""

    def __init__(self, on_text: Callable[[str], None] = lambda _: None) -> None:
        self._on_text = on_text

    def text(self, delta: str) -> None:
        """Hear a piece."""
        self._on_text(delta)


@asynccontextmanager
async def talking(store: Store, model: Any, name: str, **settings: Any) -> AsyncIterator[Conversation]:
    """Open or begin a session, finish what was interrupted, and talk."""
    known = name in store.names(name)
    record = ConversationSession(store, name=name) if known else _new(store, name, SETTINGS | settings)
    await record.open()
    async with converse(record, model) as conversation:
        pending = await record.pending()
        if pending is not None:
            await conversation.finish_pending(pending, Ear())
        yield conversation


def _new(store: Store, name: str, settings: dict[str, Any]) -> ConversationSession:
    return ConversationSession(store, name=name, settings=settings, system="be brief")


class StallingDecoder:
    """Gives a few tokens and then nothing more: a reply that a person has to stop, at whatever speed."""

    def __init__(self, decoder: Any, tokens: int) -> None:
        self._decoder, self._tokens = decoder, tokens
        self.admit, self.release, self.close = decoder.admit, decoder.release, decoder.close

    def advance(self, sequences: Sequence[Any]) -> list[Step]:
        """One step for each that has not said enough."""
        return [
            self._decoder.advance([each])[0] if each.reply.reply_tokens < self._tokens else Step()
            for each in sequences
        ]


def stalling(model: Backend, tokens: int = 5) -> Backend:
    """The same model with such a decoder."""
    model = copy.copy(model)
    model.decoder = StallingDecoder(model.decoder, tokens)  # type: ignore[assignment]
    return model


async def stop_soon(conversation: Conversation) -> None:
    """Send a message and stop the reply at its first letter."""
    with anyio.CancelScope() as scope:
        await conversation.send("sing", Ear(lambda _: scope.cancel()))


async def say(conversation: Conversation, *messages: str) -> None:
    """Send messages, one after the other."""
    for message in messages:
        await conversation.send(message, Ear())


def loaded(checkpoint: Path, **options: Any) -> Backend:
    """Load a checkpoint as the chat does, on one thread."""
    return open_model(ChatOptions(checkpoint=checkpoint, checkpoint_given=True, threads=1, **options))


async def record_session(path: Path, model: Any, name: str, works: Sequence[Work], **settings: Any) -> None:
    """Do some work in a session of the store at a path."""
    with open_store(path) as store:
        async with talking(store, model, name, **settings) as conversation:
            for work in works:
                await work(conversation)
