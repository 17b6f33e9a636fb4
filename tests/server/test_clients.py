"""The clients that other people's programs use, against the running server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from niels_gpt.chat_cli import run_chat_cli
from tests.server.conftest import ThreadServer
from tests.server.server_process import chat

if TYPE_CHECKING:
    import openai

MODEL = "niels-gpt"
VARIED = {"temperature": 2.5, "top_p": 0.99}
"""No two seeds say the same."""
BRIEF = {"input": "Who is niels?", "instructions": "be brief", "extra_body": {"seed": 1}}


@pytest.fixture
def client(server: ThreadServer) -> Iterator[openai.OpenAI]:
    import openai  # noqa: PLC0415 - half a second that the other processes need not spend

    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as found:
        yield found


def ask(client: openai.OpenAI, **values: object) -> openai.types.chat.ChatCompletion:
    return client.chat.completions.create(model=MODEL, **chat(**values))  # type: ignore[call-overload]


def token_ids(client: openai.OpenAI, text: str) -> list[int]:
    return client.post("/../tokenize", body={"content": text}, cast_to=dict[str, list[int]])["tokens"]


def test_a_seed_gives_the_same_text_and_log_probabilities(client: openai.OpenAI) -> None:
    first, again, other = (
        ask(client, **VARIED, seed=seed, logprobs=True, top_logprobs=3) for seed in (5, 5, 6)
    )
    assert first.system_fingerprint == again.system_fingerprint
    assert first.choices == again.choices
    assert first.choices != other.choices
    logprobs = first.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    for entry in logprobs.content:
        assert entry.logprob <= entry.top_logprobs[0].logprob <= 0
        assert len(entry.top_logprobs) == 3
    assert first.usage is not None
    assert first.usage.completion_tokens == len(logprobs.content)
    assert first.usage.total_tokens == first.usage.prompt_tokens + first.usage.completion_tokens


def test_a_stream_says_what_the_whole_answer_says(client: openai.OpenAI) -> None:
    whole = ask(client, n=2, **VARIED)
    texts, reasons, usage = ["", ""], {}, None
    stream = client.chat.completions.create(
        model=MODEL, stream=True, stream_options={"include_usage": True}, **chat(n=2, **VARIED)
    )
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason or reasons.get(choice.index)
    assert texts == [choice.message.content for choice in whole.choices]
    assert reasons == {choice.index: choice.finish_reason for choice in whole.choices}
    assert usage == whole.usage
    assert texts[0] != texts[1]


def test_many_requests_at_once_give_what_each_gives_alone(
    server: ThreadServer, client: openai.OpenAI
) -> None:
    bodies = [chat(seed=seed, **VARIED, max_tokens=12) for seed in range(12)]
    alone = [client.chat.completions.create(model=MODEL, **body).choices for body in bodies]

    import openai  # noqa: PLC0415

    async def together() -> list[list[openai.types.chat.chat_completion.Choice]]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as found:
            answers = await asyncio.gather(
                *(found.chat.completions.create(model=MODEL, **body) for body in reversed(bodies))
            )
        return [answer.choices for answer in reversed(answers)]

    assert asyncio.run(together()) == alone


def test_stop_ends_a_reply_before_its_text_and_logit_bias_bans(client: openai.OpenAI) -> None:
    free = ask(client).choices[0].message.content
    assert free is not None
    word = free.split()[3]
    stopped = ask(client, stop=[f" {word}"]).choices[0]
    assert stopped.message.content == free[: free.index(f" {word}")]
    assert stopped.finish_reason == "stop"
    first = token_ids(client, free)[0]
    banned = ask(client, logit_bias={str(first): -100}).choices[0].message.content
    assert banned is not None
    assert not banned.startswith(free.split()[0])


def test_a_completion_echoes_its_prompt_with_log_probabilities(client: openai.OpenAI) -> None:
    prompt = "niels is the person on whose website"
    answer = client.completions.create(
        model=MODEL, prompt=[prompt, "hello"], echo=True, logprobs=1, max_tokens=3, temperature=0, seed=1
    )
    for choice, text in zip(answer.choices, [prompt, "hello"], strict=True):
        logprobs = choice.logprobs
        assert logprobs is not None
        assert logprobs.tokens is not None
        assert logprobs.token_logprobs is not None
        assert logprobs.text_offset is not None
        assert choice.text.startswith(text)
        assert logprobs.token_logprobs[0] is None
        assert all(number <= 0 for number in logprobs.token_logprobs[1:])
        assert "".join(logprobs.tokens).replace("<|eot|>", "") == choice.text
        for offset, name in zip(logprobs.text_offset, logprobs.tokens, strict=True):
            assert name == "<|eot|>" or choice.text[offset:].startswith(name)
    # What was drawn has the log-probabilities that reading it as a prompt gives. A text may have other tokens
    # than those that it was drawn as, so the prompt is the ids of the pieces.
    drawn = answer.choices[0].logprobs
    assert drawn is not None
    pieces = [piece for piece in drawn.tokens or () if piece != "<|eot|>"]
    ids = [token_id for piece in pieces for token_id in token_ids(client, piece)]
    whole = client.completions.create(model=MODEL, prompt=ids, echo=True, logprobs=1, max_tokens=0)
    read = whole.choices[0].logprobs
    assert read is not None
    assert read.tokens == pieces
    assert read.token_logprobs == (drawn.token_logprobs or [])[: len(pieces)]
    assert read.top_logprobs == (drawn.top_logprobs or [])[: len(pieces)]


def test_a_response_continues_an_earlier_one(client: openai.OpenAI) -> None:
    first = client.responses.create(model=MODEL, **BRIEF)
    assert first.output_text
    second = client.responses.create(
        model=MODEL, input="And what can you do?", previous_response_id=first.id, extra_body={"seed": 1}
    )
    assert second.previous_response_id == first.id
    assert second.usage is not None
    assert first.usage is not None
    assert second.usage.input_tokens > first.usage.output_tokens
    assert client.responses.retrieve(first.id) == first
    with client.responses.stream(model=MODEL, **BRIEF) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        assert stream.get_final_response().output_text == text == first.output_text


def test_errors_have_the_classes_of_the_client(client: openai.OpenAI) -> None:
    import openai  # noqa: PLC0415

    with pytest.raises(openai.NotFoundError, match="unknown model 'gpt-9'"):
        client.chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "hi"}])
    with pytest.raises(openai.BadRequestError, match="temperature") as caught:
        ask(client, temperature="hot")
    assert caught.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, content="long " * 900)
    assert caught.value.code == "context_length_exceeded"


def test_the_terminal_says_the_same_under_the_same_seed_and_can_replay_what_the_server_stored(
    server: ThreadServer, client: openai.OpenAI, capsys: pytest.CaptureFixture[str]
) -> None:
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "Who is niels?"}]
    answer = client.chat.completions.create(
        model=MODEL, messages=messages, seed=9, temperature=1.1, stop=[" known"], logit_bias={"40": 1.5}
    )
    assert run_chat_cli(["replay", answer.id, "--store", str(server.folder / "sessions.db")]) == 0
    assert "exact: 1 turn" in capsys.readouterr().out
    plain = client.chat.completions.create(model=MODEL, messages=messages, seed=9, temperature=1.1)
    flags = ["--no-session", "--quiet", "--seed", "9", "--temperature", "1.1", "--system", "be brief"]
    assert run_chat_cli([*flags, "-p", "Who is niels?"]) == 0
    assert capsys.readouterr().out.strip() == (plain.choices[0].message.content or "").strip()
