"""Stores, sessions with branches, and files as other programs write them; all made here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sessions import NewGeneration, Session, SessionArchive, Store, open_store
from sessions.formats import Source, read_sessions
from tests.sessions.conftest import FINGERPRINT, FINGERPRINT_PARTS

Read = Callable[..., list[SessionArchive]]


def ask(store: Store, session: Session, content: str, reply: str) -> None:
    """One whole turn."""
    turn = store.begin_turn(
        session.id,
        content=content,
        expected_head=store.session(session.name).head_id,
        generation=asked(store),
    )
    finish(store, turn.generation.id, reply)


def asked(store: Store) -> NewGeneration:
    checkpoint = store.remember_checkpoint(
        fingerprint=FINGERPRINT, parts=FINGERPRINT_PARTS, config={"V": 256}, step=100, path="runs/best.pt"
    )
    return NewGeneration(
        checkpoint_id=checkpoint,
        seed=11,
        attempt=0,
        sampling={"temperature": 0.9, "top_k": None},
        max_new_tokens=32,
        prompt_hash="p" * 64,
        trimmed_turns=0,
        environment={"torch": "2.13"},
        forced_ids=(1, 2),
    )


def finish(store: Store, generation_id: int, reply: str) -> None:
    store.finish_reply(
        generation_id,
        content=reply,
        token_ids=list(reply.encode()),
        status="complete",
        finish_reason="stop",
        receipt={"reply_tokens": len(reply), "logits_hash": "0" * 64},
        timings={"total_s": 0.5},
    )


@pytest.fixture(scope="session")
def told_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return told_bytes(tmp_path_factory.mktemp("told"))


def told_bytes(folder: Path) -> bytes:
    """A store with one session, "talk": two turns, and another reply to the first one beside it."""
    path = folder / "sessions.db"
    with open_store(path) as store:
        session = store.create_session("talk", seed=7, system="be brief", settings={"temperature": 0.9})
        ask(store, session, "What is a tree?", "A plant.")
        first = store.path(session.id)[1]
        retry = store.begin_retry(session.id, user_message_id=first.id, generation=asked(store))
        finish(store, retry.generation.id, "Something with \u2028 leaves \U0001f333.")
        ask(store, session, "And a <forest>?", "Many & more.")
    return path.read_bytes()


@pytest.fixture
def store(tmp_path: Path, told_file: bytes) -> Iterator[Store]:
    path = tmp_path / "sessions.db"
    path.write_bytes(told_file)
    with open_store(path) as opened:
        yield opened


@pytest.fixture
def told(store: Store) -> Session:
    return store.session("talk")


@pytest.fixture
def archive(store: Store, told: Session) -> SessionArchive:
    return store.export_session(told.id)


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Read a file that holds this text, these bytes, or this value as JSON."""

    def run(content: object, *, format_name: str = "auto", **limits: int) -> list[SessionArchive]:
        from sessions.formats import Limits  # noqa: PLC0415

        path = tmp_path / "file.json"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return list(read_sessions(Source(path, limits=Limits(**limits)), format_name=format_name))

    return run
