"""Stores in real files and on a real server, and the few steps that most tests about them share.

A test that takes ``store`` runs on both databases; a module that is about files makes its ``place`` the file.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sessions import Message, NewGeneration, Session, Store, open_store
from sessions.digest import PARTS, fingerprint_of
from tests.sessions import postgres_server

Asked = Callable[[Store], NewGeneration]
Exchange = Callable[[Store, Session, str, str], Message]


FINGERPRINT_PARTS = {part: part[0] * 64 for part in PARTS}
FINGERPRINT = str(fingerprint_of(FINGERPRINT_PARTS))

MEMORY = Path("/dev/shm")  # noqa: S108 - a RAM disk, where the system has one


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In memory where there is such a folder: that a sync of a disk takes time is not what is tested here."""
    with tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as folder:
        yield Path(folder).resolve()


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "sessions.db"


@pytest.fixture(scope="session")
def fresh_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a store without a session: creating one for every test would take half of the time."""
    path = tmp_path_factory.mktemp("fresh") / "sessions.db"
    open_store(path).close()
    return path.read_bytes()


@pytest.fixture
def sqlite_place(store_path: Path, fresh_file: bytes) -> Path:
    store_path.parent.mkdir(mode=0o700)
    store_path.write_bytes(fresh_file)
    return store_path


@pytest.fixture(scope="session")
def server() -> Iterator[postgres_server.Server]:
    """A PostgreSQL server, with a store in the database ``fresh`` that others are copied from."""
    programs = postgres_server.programs()
    if programs is None:
        pytest.skip("PostgreSQL's server is not installed (Debian: apt install postgresql)")
    pytest.importorskip("psycopg")
    with postgres_server.running(programs) as running:
        running.execute("CREATE DATABASE fresh")
        open_store(running.url("fresh")).close()
        yield running


@pytest.fixture
def postgresql_place(server: postgres_server.Server) -> Iterator[str]:
    with server.database(template="fresh") as name:
        yield server.url(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest) -> Path | str:
    """Where an empty store is: what holds for one database holds for the other."""
    return request.getfixturevalue(f"{request.param}_place")


@pytest.fixture
def store(place: Path | str) -> Iterator[Store]:
    with open_store(place) as opened:
        yield opened


@pytest.fixture
def session(store: Store) -> Session:
    """A session that has its system prompt and nothing else."""
    return store.create_session("talk", seed=7, system="be brief", settings={"temperature": 0.9})


@pytest.fixture
def asked() -> Asked:
    """What a reply is asked for with, by a checkpoint that the store knows."""

    def make(store: Store) -> NewGeneration:
        checkpoint = store.remember_checkpoint(
            fingerprint=FINGERPRINT, parts=FINGERPRINT_PARTS, config={"V": 256}, step=100, path="best.pt"
        )
        return NewGeneration(
            checkpoint_id=checkpoint,
            seed=2**63 - 1,
            attempt=0,
            sampling={"temperature": 0.9, "top_k": 50},
            max_new_tokens=32,
            prompt_hash="p" * 64,
            trimmed_turns=0,
            environment={"torch": "2.13"},
        )

    return make


@pytest.fixture
def exchange(asked: Asked) -> Exchange:
    """One whole turn: a user message and its complete reply, which is returned."""

    def say(store: Store, session: Session, content: str, reply: str) -> Message:
        head = store.session(session.name).head_id
        turn = store.begin_turn(session.id, content=content, expected_head=head, generation=asked(store))
        return finish(store, turn.generation.id, reply)

    return say


@pytest.fixture
def finished() -> Callable[[Store, int, str], Message]:
    """Finish a pending generation with a reply."""
    return finish


def finish(store: Store, generation_id: int, reply: str) -> Message:
    return store.finish_reply(
        generation_id,
        content=reply,
        token_ids=list(reply.encode()),
        status="complete",
        finish_reason="stop",
        receipt={"reply_tokens": len(reply)},
        timings={"total_s": 0.5},
    )
