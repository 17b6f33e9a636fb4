"""The native surface: sessions, the tree, forks at a token, replays, files, and refused callers."""

from __future__ import annotations

import json
import threading
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from niels_gpt.conversation.options import ChatOptions
from niels_gpt.serve_cli import parse_options
from niels_gpt.server.native_api import _default_system
from niels_gpt.text.system_prompt import DEFAULT_SYSTEM_PROMPT
from sessions import open_store
from tests.server.conftest import ThreadServer
from tests.server.server_process import chat, frames_of

KEY = "correct horse battery staple".replace(" ", "-")


def data_of(stream: bytes, event: str) -> list[Any]:
    """Return the data of all frames of one event."""
    name = f"event: {event}\n".encode()
    return [json.loads(frame.split(b"data: ", 1)[1]) for frame in frames_of(stream) if name in frame]


def say(server: ThreadServer, session: int, what: str, **body: object) -> dict[str, Any]:
    """Ask for a reply and return the session as it is once it is whole."""
    begun = server.json("POST", f"/api/sessions/{session}/{what}", body)
    with server.request("GET", begun["events"]) as answer:
        assert data_of(answer.read(), "done")
    return server.json("GET", f"/api/sessions/{begun['session']}")


@pytest.fixture
def session(server: ThreadServer) -> dict[str, Any]:
    made = server.json("POST", "/api/sessions", {"settings": {"temperature": 1.3, "max_new_tokens": 30}})
    return say(server, made["id"], "turns", content="Who is niels?")


def test_a_conversation_is_retried_edited_and_navigated_and_nothing_is_lost(
    server: ThreadServer, session: dict[str, Any]
) -> None:
    number, (_, user, first) = session["id"], session["messages"]
    retried = say(server, number, "retry")["messages"][-1]
    assert (retried["parent"], retried["attempt"]) == (user["id"], 1)
    edited = say(server, number, "edit", message=user["id"], content="What can you do?")
    assert [message["role"] for message in edited["messages"]] == ["system", "user", "assistant"]
    tree = server.json("GET", f"/api/sessions/{number}/tree")
    assert len(tree["messages"]) == 6
    moved = server.json("POST", f"/api/sessions/{number}/head", {"message": first["id"]})
    assert moved["messages"] == session["messages"]


def test_an_edit_that_does_not_fit_leaves_the_session_where_it_was(
    server: ThreadServer, session: dict[str, Any]
) -> None:
    path, user = f"/api/sessions/{session['id']}", session["messages"][1]
    edit = {"message": user["id"], "content": "long " * 900}
    refused = server.json("POST", f"{path}/edit", edit, status=400)
    assert refused["error"]["code"] == "context_length_exceeded"
    assert server.json("GET", path)["messages"] == session["messages"]


def test_a_fork_at_a_token_keeps_what_stands_before_it(server: ThreadServer, session: dict[str, Any]) -> None:
    number, reply = session["id"], session["messages"][-1]["reply"]
    why = server.json("GET", f"/api/sessions/{number}/why?reply={reply}")
    assert why["same_bits"] is True
    other = next(
        each
        for each in why["tokens"][2]["candidates"]
        if each["token_id"] != why["tokens"][2]["chosen"]["token_id"]
    )
    forked = say(server, number, "fork", reply=int(reply), keep=2, token=other["token_id"])
    assert forked["forked_from"] == number
    made = server.json("GET", f"/api/replies/{forked['messages'][-1]['reply']}")
    kept = [token["chosen"]["token_id"] for token in why["tokens"][:2]]
    assert made["token_ids"][:3] == [*kept, other["token_id"]]
    with server.request("GET", f"/api/sessions/{forked['id']}/replay") as answer:
        stream = answer.read()
    assert [verdict["verdict"] for verdict in data_of(stream, "verdict")] == ["exact"]
    assert data_of(stream, "summary")[0]["kind"] == "exact"
    too_many = server.json(
        "POST", f"/api/sessions/{number}/fork", {"reply": int(reply), "keep": 999}, status=400
    )
    assert too_many["error"]["param"] == "keep"


def test_a_changed_reply_is_found_by_its_digest(server: ThreadServer, session: dict[str, Any]) -> None:
    with server.request("GET", f"/api/sessions/{session['id']}/export") as answer:
        lines = answer.read().decode()
    imported = server.json("POST", "/api/import", lines.encode())
    assert imported["sessions"][0]["name"] == f"{session['name']}-2"
    changed = lines.replace("Who is niels?", "Who is Niels?")
    refused = server.json("POST", "/api/import", changed.encode(), status=400)
    assert "the upload" in refused["error"]["message"]


def test_settings_are_checked_by_the_same_table_as_the_terminals(
    server: ThreadServer, session: dict[str, Any]
) -> None:
    path = f"/api/sessions/{session['id']}"
    changed = server.json("PATCH", path, {"settings": {"top_p": 0.5}, "seed": 3, "name": "<b>renamed</b>"})
    assert (changed["settings"]["top_p"], changed["seed"], changed["name"]) == (0.5, 3, "<b>renamed</b>")
    wrong = server.json("PATCH", path, {"settings": {"top_p": 3}}, status=400)
    assert wrong["error"]["param"] == "top_p"
    assert server.json("GET", "/api/sessions?search=niels")["hits"]


def test_a_stored_reply_outlives_its_client_and_one_that_is_not_stored_ends_with_it(
    server: ThreadServer,
) -> None:
    body = {**chat(max_tokens=200, seed=1, logit_bias={"3": -100}), "stream": True}
    statistics = server.app.state.server.engine.statistics
    before = statistics()
    ids = []
    for store in (True, False):
        server.brake.moving.clear()
        with server.request("POST", "/v1/chat/completions", {**body, "store": store}) as answer:
            ids.append(answer.getheader("X-Niels-Reply"))
            answer.read1()
        wait_until(lambda: server.app.state.server.replies.followers == 0)
        server.brake.moving.set()
        wait_until(lambda: statistics().running == 0)
    now = statistics()
    assert (now.done - before.done, now.cancelled - before.cancelled) == (1, 1)

    def reason() -> str:
        return server.json("GET", f"/api/replies/{ids[0]}")["choices"][0]["finish_reason"]

    # The engine is done with a reply a moment before the server has stored it.
    wait_until(lambda: reason() == "length")


def test_delete_stops_a_reply_and_keeps_what_was_said(server: ThreadServer) -> None:
    made = server.json("POST", "/api/sessions", {"settings": {"temperature": 5.0, "top_k": 2000}})
    server.brake.moving.clear()
    begun = server.json("POST", f"/api/sessions/{made['id']}/turns", {"content": "hi"})
    busy = server.json("POST", f"/api/sessions/{made['id']}/turns", {"content": "hi"}, status=409)
    assert busy["error"]["code"] == "reply_pending"
    release = threading.Timer(0.2, server.brake.moving.set)
    release.start()
    stopped = server.json("DELETE", f"/api/replies/{begun['reply']}")
    release.join()
    assert stopped["reasons"] == ["cancelled"]
    assert server.json("GET", f"/api/sessions/{made['id']}")["messages"][-1]["status"] == "cancelled"


def wait_until(holds: Any) -> None:
    done = threading.Event()
    for _ in range(2000):
        if holds():
            return
        done.wait(0.005)
    raise AssertionError("it did not come about")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1:1"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Origin": "null"}, 403),
    ],
    ids=["rebound name", "address", "other page", "other site", "null origin"],
)
def test_other_peoples_pages_may_not_call(server: ThreadServer, headers: dict[str, str], status: int) -> None:
    with server.request("GET", "/api/sessions", **headers) as answer:
        assert answer.status == status, answer.read()


def test_what_is_too_large_is_refused_before_it_is_read(server: ThreadServer) -> None:
    with server.request("POST", "/api/import", b"x", Content_Length=str(2**40)) as answer:
        assert answer.status == 413


@pytest.mark.parametrize(
    "path", ["/page/../../app.py", "/page/%2e%2e/%2e%2e/app.py", "/page//etc/passwd", "/../pyproject.toml"]
)
def test_no_address_reaches_other_files(server: ThreadServer, path: str) -> None:
    with server.request("GET", path) as answer:
        text = answer.read()
        assert answer.status == 404
        assert b"import" not in text
        assert str(Path.cwd()).encode() not in text


def test_without_the_key_nothing_but_the_page_is_answered(tmp_path: Path, model: Any) -> None:
    with open_store(tmp_path / "s.db") as store:
        running = ThreadServer(
            tmp_path, store, model, api_key=KEY, max_requests_per_client=2, max_body_bytes=1000
        )
        running.start()
        try:
            assert running.json("GET", "/v1/models", status=401)["error"]["code"] == "invalid_api_key"
            assert running.json("GET", "/v1/models", status=401, Authorization=f"Bearer {KEY}x")
            assert running.json("GET", "/v1/models", Authorization=f"Bearer {KEY}")["data"]
            with running.request("GET", "/") as answer:
                assert answer.status == 200
            key = f"Bearer {KEY}"
            # Without a length, in pieces.
            pieces = iter([b"{", b" " * 2000, b"}"])
            with running.request("POST", "/tokenize", pieces, Authorization=key) as answer:
                assert answer.status == 413
            model.decoder.moving.clear()
            body = {**chat(), "stream": True, "store": False}
            with ExitStack() as stack:

                def begun() -> bool:
                    # The answer before may still count for a moment.
                    held = running.request(
                        "POST", "/v1/chat/completions", body, Authorization=f"Bearer {KEY}"
                    )
                    return stack.enter_context(held).status == 200

                wait_until(begun)
                wait_until(begun)
                busy = running.json("GET", "/v1/models", status=429, Authorization=f"Bearer {KEY}")
                assert busy["error"]["type"] == "rate_limit_error"
        finally:
            model.decoder.moving.set()
            running.stop()


@pytest.mark.parametrize(
    "words",
    [["--max-batch", "nan"], ["--max-batch", "0"], ["--reply-seconds", "x"], ["--reply-seconds", "nan"]],
)
def test_a_wrong_number_is_quoted_with_what_is_allowed(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse_options(words)
    assert f"argument {words[0]}: {words[1]!r} is not allowed: " in capsys.readouterr().err


def test_a_server_that_others_can_reach_needs_a_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse_options(["--host", "0.0.0.0"], {})  # noqa: S104 - refused
    assert "give --api-key-file PATH" in capsys.readouterr().err
    (tmp_path / "key").write_text(f"{KEY}\n")
    flags = ["--host", "0.0.0.0", "--api-key-file", str(tmp_path / "key")]  # noqa: S104 - not opened
    assert parse_options(flags, {}).api_key == KEY


@pytest.mark.parametrize(
    ("options", "system"),
    [
        (ChatOptions(), DEFAULT_SYSTEM_PROMPT),
        (ChatOptions(default_system=""), ""),
        (ChatOptions(default_system="be brief"), "be brief"),
        (ChatOptions(default_system="", system="be brief"), "be brief"),
    ],
)
def test_a_new_session_starts_from_the_system_prompt_of_the_options(options: ChatOptions, system: str):
    # A model of another project has none of its own: its template decides.
    state: Any = SimpleNamespace(options=SimpleNamespace(chat=options))
    assert _default_system(state) == system
