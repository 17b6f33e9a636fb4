"""Requests of OpenAI's batch format, and their responses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from niels_gpt.generate_cli import main


@pytest.fixture
def respond(directory: Path, tmp_path: Path):
    """Run a batch on the small BDH, whose tokens are bytes; gives the responses."""

    def call(*requests: dict[str, Any], flags: tuple[str, ...] = ()) -> list[dict[str, Any]]:
        prompts, output = tmp_path / "batch.jsonl", tmp_path / "responses.jsonl"
        prompts.write_text("\n".join(map(json.dumps, requests)))
        words = [
            "--model",
            str(directory),
            "--prompts",
            str(prompts),
            "--output",
            str(output),
            "--force",
            *flags,
        ]
        assert main([*words, "--max_new_tokens", "5"]) == 0
        return [json.loads(line) for line in output.read_text("utf-8").splitlines()]

    return call


def request(body: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"custom_id": "one", "method": "POST", "url": "/v1/chat/completions", "body": body} | changes


HELLO = [{"role": "user", "content": "hello"}]


def test_a_chat_is_answered_in_the_form_of_the_api(respond):
    [found] = respond(request({"model": "mine", "messages": HELLO, "max_tokens": 4, "n": 2}))
    assert (found["custom_id"], found["error"]) == ("one", None)
    assert found["response"]["status_code"] == 200
    body = found["response"]["body"]
    assert (body["object"], body["model"]) == ("chat.completion", "mine")
    assert [choice["index"] for choice in body["choices"]] == [0, 1]
    assert all(choice["message"]["role"] == "assistant" for choice in body["choices"])
    assert {choice["finish_reason"] for choice in body["choices"]} == {"length"}
    prompt = len(b"user: hello\nassistant: ")
    assert body["usage"] == {"prompt_tokens": prompt, "completion_tokens": 8, "total_tokens": prompt + 8}


def test_a_text_is_continued(respond):
    [found] = respond(request({"prompt": "abc", "temperature": 0}, url="/v1/completions"))
    body = found["response"]["body"]
    assert body["object"] == "text_completion"
    assert body["usage"]["prompt_tokens"] == 3
    assert isinstance(body["choices"][0]["text"], str)


def test_the_body_decides_over_the_flags(respond):
    bodies = [{"messages": HELLO, "seed": seed, "temperature": 2.0} for seed in (1, 1, 2)]
    first, second, third = (
        found["response"]["body"]["choices"] for found in (respond(request(body))[0] for body in bodies)
    )
    assert first == second
    assert first != third


def test_equal_inputs_give_equal_bytes_and_every_line_its_own_id(respond):
    batch = [request({"messages": HELLO}, custom_id=str(n)) for n in range(3)]
    assert respond(*batch) == respond(*batch, flags=("--batch_size", "1"))
    assert len({found["id"] for found in respond(*batch)}) == 3


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (request({"messages": []}), "messages is []"),
        (request({"messages": [{"role": "user"}]}), "expected a role and a content of text"),
        (request({"messages": [{"role": "me", "content": "x"}]}), "'me'"),
        (request({"messages": HELLO}, url="/v1/embeddings"), "/v1/embeddings"),
        (request({"messages": HELLO}, method="GET"), "GET"),
        (request({"messages": HELLO, "stream": True}), "stream is true"),
        (request({"messages": HELLO, "temperature": "hot"}), "temperature is 'hot'"),
        (request({"messages": HELLO, "temperature": -1}), "temperature is -1.0"),
        (request({"messages": HELLO, "max_tokens": 1.5}), "max_tokens is 1.5"),
        (request({"messages": HELLO, "n": 0}), "n is 0"),
        (request({"messages": HELLO, "stop": [""]}), "stop is ['']"),
        (request({"prompt": ["a"]}, url="/v1/completions"), "prompt is ['a']"),
        (request([]), "body is []"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_a_request_that_cannot_be_served_has_an_error_and_the_others_are_served(respond, wrong, said: str):
    good = request({"messages": HELLO}, custom_id="good")
    bad, served = respond(wrong, good)
    assert bad["response"]["status_code"] == 400
    assert said in bad["response"]["body"]["error"]["message"]
    assert (served["custom_id"], served["response"]["status_code"]) == ("good", 200)
