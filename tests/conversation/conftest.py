"""The scripted model and the store of the chat's tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sessions import NewGeneration, Store
from tests.chat.conftest import anyio_backend, ear, scripted, store

__all__ = ["anyio_backend", "ear", "interrupt", "scripted", "store"]


def interrupt(store: Store, *, settings: dict[str, Any], **recorded: Any) -> None:
    """Leave the store as a crash in the middle of the second reply of session "a" leaves it.

    Args:
        store: The store, in which the session has one turn.
        settings: Sampling settings that the second reply was asked for with, in place of the first one's.
        recorded: Other fields of its generation.
    """
    session = store.session("a")
    first = store.generations(session.id)[0]
    generation = NewGeneration(
        checkpoint_id=first.checkpoint_id,
        seed=1,
        attempt=0,
        sampling={**first.sampling, **settings},
        max_new_tokens=7,
        prompt_hash=first.prompt_hash,
        trimmed_turns=0,
        environment={},
    )
    store.begin_turn(
        session.id,
        content="two",
        expected_head=session.head_id,
        generation=replace(generation, **recorded),
    )
