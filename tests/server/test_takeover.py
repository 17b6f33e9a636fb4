"""Servers that share a PostgreSQL store: one finishes the replies of another that died."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from niels_gpt.conversation.settings import Settings
from niels_gpt.server import plans, takeover
from niels_gpt.server.plans import ServerPlanner
from sessions import Store, Turn, open_store
from tests.server.conftest import PATIENCE, ThreadServer
from tests.server.server_process import chat
from tests.sessions import postgres_server

SETTINGS = {"max_new_tokens": 12, "temperature": 1.5, "seed": 5, "top_k": 40}


@pytest.fixture(scope="module")
def place() -> Iterator[str]:
    programs = postgres_server.programs()
    if programs is None:
        pytest.skip("PostgreSQL's server is not installed (Debian: apt install postgresql)")
    with postgres_server.running(programs) as running, running.database() as database:
        yield running.url(database)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(takeover, "GRACE", timedelta(0))
    monkeypatch.setattr(takeover, "LOOK_SECONDS", 0.01)


def interrupted(store: Store, model: Any, *, choices: int = 1) -> str:
    """The id of a response that a server asked for before it was gone."""
    planner = ServerPlanner(model, store.remember_checkpoint(**model.checkpoint))
    settings = Settings().with_values(SETTINGS)
    asked = {"form": "chat.completion", "model": "m", "choices": choices}
    plan = planner.plan([], "hello", settings, asked=asked)
    name = f"chatcmpl-{secrets.token_hex(12)}"
    values = settings.stored()
    store.begin_session(
        name, seed=settings.seed, settings=values, messages=[("user", "hello")], generation=plan.generation
    )
    return name


def outcome(store: Store, name: str, *, until: str) -> Turn:
    """The turn of a response's session, once its generation has that status."""
    session = store.session(name)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        [generation] = store.generations(session.id)
        if generation.status == until:
            return store.turn(generation.id)
    raise AssertionError(f"the reply did not become {until}")


def test_another_server_finishes_the_reply_without_being_asked(
    tmp_path: Path, place: str, model: Any
) -> None:
    with open_store(place) as store, open_store(place) as other:
        reply = interrupted(store, model)
        second = ThreadServer(tmp_path, other, model)
        second.start()
        try:
            done = outcome(store, reply, until="complete")
            body = chat("hello", max_tokens=SETTINGS["max_new_tokens"], temperature=1.5, seed=5, top_k=40)
            undisturbed = second.json("POST", "/v1/chat/completions", body)
        finally:
            second.stop()
        [*_, message] = store.path(done.session.id)
        assert message.content == undisturbed["choices"][0]["message"]["content"]
        assert store.pending_turns() == []


def test_a_response_that_was_never_stored_whole_is_recorded_as_failed(
    tmp_path: Path, place: str, model: Any
) -> None:
    with open_store(place) as store:
        reply = interrupted(store, model, choices=2)
        second = ThreadServer(tmp_path, store, model)
        second.start()
        try:
            assert outcome(store, reply, until="failed").generation.error == "its server died before it began"
        finally:
            second.stop()


@pytest.mark.parametrize("why", ["claimed", "of a terminal"])
def test_a_reply_that_somebody_else_makes_is_left(
    tmp_path: Path, place: str, model: Any, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(place) as store, open_store(place) as other:
        if why == "of a terminal":
            with monkeypatch.context() as patch:
                patch.setattr(plans, "MAKER", "niels-chat")
                left = interrupted(store, model)
        else:
            left = interrupted(store, model)
        claims = store.claims()
        assert claims is not None
        with closing(claims):
            if why == "claimed":
                [turn] = store.pending_turns()
                assert claims.take(turn.generation.id)
            later = interrupted(store, model)
            second = ThreadServer(tmp_path, other, model)
            second.start()
            try:
                # The round that finishes the later one has looked at this one before.
                outcome(store, later, until="complete")
                pending = outcome(store, left, until="pending")
                claims.close()
                if why == "claimed":
                    outcome(store, left, until="complete")
            finally:
                second.stop()
        if why == "of a terminal":
            store.fail_generation(pending.generation.id, error="over")
