"""A store with a few conversations, and the command line as a user has it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from niels_gpt.chat_cli import run_chat_cli
from sessions import Message, NewGeneration, Store, open_store
from tests.sessions.conftest import FINGERPRINT, FINGERPRINT_PARTS


@dataclass(frozen=True)
class Printed:
    """What a command left behind."""

    status: int
    out: str
    err: str


Command = Callable[..., Printed]
Say = Callable[..., Message]


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.db"


@pytest.fixture(scope="session")
def fresh_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of an empty store, so that not every test makes one."""
    path = tmp_path_factory.mktemp("fresh") / "sessions.db"
    open_store(path).close()
    return path.read_bytes()


@pytest.fixture
def store(store_path: Path, fresh_file: bytes) -> Iterator[Store]:
    store_path.parent.mkdir(parents=True, exist_ok=True)
    store_path.touch(mode=0o600)
    store_path.write_bytes(fresh_file)
    with open_store(store_path) as opened:
        yield opened


@pytest.fixture
def command(store_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run `niels-chat NAME ... --store THE_STORE`, 80 columns wide if not said otherwise."""

    def run(*words: str, columns: int = 80) -> Printed:
        monkeypatch.setenv("COLUMNS", str(columns))
        status = run_chat_cli([words[0], "--store", str(store_path), *words[1:]])
        printed = capsys.readouterr()
        return Printed(status, printed.out, printed.err)

    return run


@pytest.fixture
def say(store: Store) -> Say:
    """One whole turn in the session of this name, which is begun if need be; returns the reply."""

    def exchange(name: str, content: str, reply: str) -> Message:
        names = {each.name for each in store.sessions(archived=True)}
        session = (
            store.session(name)
            if name in names
            else store.create_session(name, seed=7, system="be brief", settings={"temperature": 0.9})
        )
        checkpoint = store.remember_checkpoint(
            fingerprint=FINGERPRINT, parts=FINGERPRINT_PARTS, config={"V": 256}, step=100, path="runs/best.pt"
        )
        turn = store.begin_turn(
            session.id,
            content=content,
            expected_head=session.head_id,
            generation=NewGeneration(
                checkpoint_id=checkpoint,
                seed=11,
                attempt=0,
                sampling={"temperature": 0.9},
                max_new_tokens=32,
                prompt_hash="p" * 64,
                trimmed_turns=0,
                environment={"torch": "2.13"},
            ),
        )
        return store.finish_reply(
            turn.generation.id,
            content=reply,
            token_ids=list(reply.encode()),
            status="complete",
            finish_reason="stop",
            receipt={"reply_tokens": len(reply), "logits_hash": "0" * 64},
            timings={"total_s": 0.5},
        )

    return exchange
