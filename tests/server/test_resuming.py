"""A stream continues with exactly its bytes, from any point, also after the server was killed."""

from __future__ import annotations

import contextlib
import http.client
import threading
from pathlib import Path
from typing import Any

import pytest

from sessions import open_store
from tests.server.conftest import ThreadServer
from tests.server.server_process import Client, ServerProcess, chat, frames_of, number_of

LONG = {"max_tokens": 240, "stop": None, "temperature": 1.5, "logit_bias": {"3": -100}}
"""The end of a turn is ruled out: the reply has exactly so many tokens."""


def stream(server: Client, body: dict[str, object], **headers: str) -> bytes:
    with server.request("POST", "/v1/chat/completions", {**body, "stream": True}, **headers) as answer:
        assert answer.status == 200, answer.read()
        return answer.read()


def events(server: Client, reply: str, after: int = -1, **headers: str) -> bytes:
    with server.request("GET", f"/api/replies/{reply}/events?after={after}", **headers) as answer:
        assert answer.status == 200, answer.read()
        return answer.read()


def reply_of(frame: bytes) -> str:
    return frame.removeprefix(b"id: ").partition(b":")[0].decode()


@pytest.mark.parametrize(
    "extra", [{}, {"n": 3}, {"logprobs": True, "top_logprobs": 2}], ids=["1", "n", "logprobs"]
)
def test_a_stream_continues_behind_every_event(server: ServerProcess, extra: dict[str, object]) -> None:
    whole = frames_of(stream(server, chat(**extra)))
    assert [number_of(frame) for frame in whole] == list(range(len(whole)))
    reply = reply_of(whole[0])
    for number in range(-1, len(whole), 5):
        assert frames_of(events(server, reply, number)) == whole[number + 1 :]
        if number >= 0:
            assert frames_of(events(server, reply, Last_Event_ID=f"{reply}:{number}")) == whole[number + 1 :]
            again = stream(server, chat(), Last_Event_ID=f"{reply}:{number}")
            assert frames_of(again) == whole[number + 1 :]


def test_a_killed_server_continues_with_the_bytes_of_an_undisturbed_run(
    server: ThreadServer, model: Any
) -> None:
    body = chat(**LONG, n=2, logprobs=True, top_logprobs=2)
    with ServerProcess(server.folder) as other, open_store(server.folder / "sessions.db") as store:
        with other.request("POST", "/v1/chat/completions", {**body, "stream": True}) as answer:
            before = b""
            while len(frames_of(before)) < 9:
                before += answer.read1()
            other.kill()
        got = frames_of(before)
        assert not got[-1].endswith(b"[DONE]\n\n"), "the reply was whole before the server was killed"
        # The next start, in this process: it was not here that the reply began.
        following = ThreadServer(server.folder, store, model, chat=server.options.chat)
        following.start()
        try:
            reply = reply_of(got[0])
            got += frames_of(events(following, reply, Last_Event_ID=f"{reply}:{number_of(got[-1])}"))
        finally:
            following.stop()
    # The first server has the same store and renders what is stored.
    assert frames_of(events(server, reply)) == got
    undisturbed = frames_of(stream(server, body))
    assert reply_of(undisturbed[0]) != reply
    assert [number_of(frame) for frame in got] == list(range(len(undisturbed)))
    assert texts(got) == texts(undisturbed)
    other_seed = frames_of(stream(server, {**body, "seed": 8, "max_tokens": 40}))
    assert texts(got)[:60] != texts(other_seed)[:60]


def test_a_reply_that_does_not_end_in_time_is_left_for_the_next_start(tmp_path: Path, model: Any) -> None:
    with open_store(tmp_path / "sessions.db") as store:
        first = ThreadServer(tmp_path, store, model, drain_seconds=0.0)
        first.start()
        model.decoder.moving.clear()
        body = chat(**LONG | {"max_tokens": 80})
        with first.request("POST", "/v1/chat/completions", {**body, "stream": True}) as answer:
            before = answer.read1()
            ending = threading.Thread(target=first.stop)
            ending.start()
            # The step that runs is waited for; uvicorn gives the connection a second.
            threading.Timer(1.3, model.decoder.moving.set).start()
            with contextlib.suppress(http.client.HTTPException, OSError):
                before += answer.read()
            ending.join()
        got = frames_of(before)
        reply = reply_of(got[0])
        assert store.pending(store.session(reply).id) is not None
        second = ThreadServer(tmp_path, store, model)
        second.start()
        try:
            got += frames_of(events(second, reply, number_of(got[-1])))
            assert texts(got) == texts(frames_of(stream(second, body)))
        finally:
            second.stop()


def texts(frames: list[bytes]) -> list[bytes]:
    """Return what the frames say: without ids and moments, which differ from one reply to the next."""
    return [frame[frame.index(b'"choices"') :] if b'"choices"' in frame else b"" for frame in frames[2:]]
