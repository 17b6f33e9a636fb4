"""Read requests and write responses of OpenAI's batch format, one JSON object a line.

A request is {"custom_id", "method": "POST", "url", "body"}; the url is one of "/v1/chat/completions" and
"/v1/completions". Settings that the body lacks are those of the command line. A request that cannot be served
has an error as its response, and the others are served. Responses have no times and no random ids, so that
equal inputs give equal bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from niels_gpt.cli.generate.plan import Plan
from niels_gpt.cli.generate.prompts import Completion, Prompt, PromptEncoder, PromptError

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
FINISH_REASONS = {"stop": "stop", "beam": "stop", "length": "length", "context": "length"}
MOST_SAMPLES = 128


@dataclass(frozen=True, kw_only=True)
class BatchRequest:
    """A request that can be served: its prompt, and how it is continued."""

    prompt: Prompt
    plan: Plan


def parse_request(prompt: Prompt, encoder: PromptEncoder, plan: Plan) -> BatchRequest:
    """Return the request of a line.

    Args:
        prompt: The line, with its `batch_request`.
        encoder: Encodes messages and texts.
        plan: The settings of the command line.

    Raises:
        PromptError: The request is malformed, or asks for something that there is not.

    """
    line = prompt.batch_request or {}
    body, url = line.get("body"), line.get("url", CHAT)
    if not isinstance(line.get("custom_id"), str):
        raise PromptError(f"custom_id is {line.get('custom_id')!r:.80}, expected a text")
    if line.get("method", "POST") != "POST" or url not in {CHAT, TEXT}:
        raise PromptError(
            f"method and url are {line.get('method', 'POST')!r:.80} and {url!r:.80}, expected POST and "
            f"{CHAT} or {TEXT}"
        )
    if not isinstance(body, Mapping):
        raise PromptError(f"body is {body!r:.80}, expected an object")
    if body.get("stream"):
        raise PromptError("stream is true; a batch has no streams")
    settings = _plan_of(body, plan)
    encoder = replace(encoder, room=min(1, settings.max_new_tokens))
    if url == CHAT:
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise PromptError(f"messages is {messages!r:.80}, expected a list of messages")
        own = replace(encoder, system="")  # as the API: no message is added
        found = own.of_ids(own.chat_ids(_plain(messages), where="the request"), where="the prompt")
        template = encoder.template
        settings = replace(
            settings,
            stop_sequences=settings.stop_sequences + template.stop_sequences,
            stop_ids=settings.stop_ids | template.stop_ids,
        )
    else:
        text = body.get("prompt")
        if not isinstance(text, str):
            raise PromptError(f"prompt is {text!r:.80}, expected a text")
        found = replace(encoder, answers=False).of_text(text)
    return BatchRequest(prompt=replace(prompt, ids=found.ids, text=None), plan=settings)


def response_line(prompt: Prompt, completions: Sequence[Completion], *, model: str) -> str:
    """Return the response to a request as a line of JSON, without its end."""
    line = prompt.batch_request or {}
    failed = next((c.error for c in completions if c.error is not None), None)
    if failed is not None:
        return error_line(prompt, failed)
    is_chat = line.get("url", CHAT) == CHAT
    reply_tokens = sum(len(completion.ids) for completion in completions)
    body = {
        "id": ("chatcmpl-" if is_chat else "cmpl-") + _id_of(prompt),
        "object": "chat.completion" if is_chat else "text_completion",
        "created": 0,
        "model": model,
        "choices": [_choice(completion, is_chat=is_chat) for completion in completions],
        "usage": {
            "prompt_tokens": len(prompt.ids),
            "completion_tokens": reply_tokens,
            "total_tokens": len(prompt.ids) + reply_tokens,
        },
    }
    return _response(prompt, status=200, body=body)


def error_line(prompt: Prompt, error: Exception) -> str:
    """Return the response to a request that was not served."""
    fault = {"message": str(error), "type": "invalid_request_error", "param": None, "code": None}
    return _response(prompt, status=400, body={"error": fault})


def _response(prompt: Prompt, *, status: int, body: Mapping[str, Any]) -> str:
    line, name = prompt.batch_request or {}, _id_of(prompt)
    response = {"status_code": status, "request_id": f"req_{name}", "body": body}
    record = {
        "id": f"batch_req_{name}",
        "custom_id": line.get("custom_id"),
        "response": response,
        "error": None,
    }
    return json.dumps(record, ensure_ascii=False)


def _choice(completion: Completion, *, is_chat: bool) -> dict[str, Any]:
    content: dict[str, Any] = (
        {"message": {"role": "assistant", "content": completion.text}}
        if is_chat
        else {"text": completion.text}
    )
    finish = FINISH_REASONS.get(completion.finish, completion.finish)
    return {"index": completion.sample, **content, "logprobs": None, "finish_reason": finish}


def _id_of(prompt: Prompt) -> str:
    """Return an id that is a function of the line and its number."""
    text = f"{prompt.index}\0{json.dumps(prompt.batch_request, sort_keys=True)}"
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _plan_of(body: Mapping[str, Any], plan: Plan) -> Plan:
    limit = body.get("max_completion_tokens", body.get("max_tokens"))
    stop = body.get("stop")
    stops = [stop] if isinstance(stop, str) else [] if stop is None else stop
    if not isinstance(stops, list) or not all(isinstance(text, str) and text for text in stops):
        raise PromptError(f"stop is {stop!r:.80}, expected a text or a list of texts")
    names = ("temperature", "top_p", "presence_penalty", "frequency_penalty")
    given = {name: _number(body, name) for name in names if body.get(name) is not None}
    try:
        sampling = replace(plan.sampling, **given)
    except ValueError as error:
        raise PromptError(str(error)) from error
    return replace(
        plan,
        sampling=sampling,
        max_new_tokens=plan.max_new_tokens if limit is None else _whole("max_tokens", limit, least=0),
        samples=plan.samples if body.get("n") is None else _whole("n", body["n"], most=MOST_SAMPLES),
        seed=plan.seed if body.get("seed") is None else _whole("seed", body["seed"], least=-(2**63)),
        stop_sequences=plan.stop_sequences + tuple(text.encode("utf-8", errors="replace") for text in stops),
    )


def _number(body: Mapping[str, Any], name: str) -> float:
    value = body[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PromptError(f"{name} is {value!r:.80}, expected a number")
    return float(value)


def _whole(name: str, value: object, *, least: int = 1, most: int = 2**63) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise PromptError(f"{name} is {value!r:.80}, expected a whole number from {least}")
    return value


def _plain(messages: Sequence[Any]) -> list[Any]:
    """Return messages whose content is a text; lists of text parts are joined."""
    found = []
    for message in messages:
        content = message.get("content") if isinstance(message, Mapping) else None
        if isinstance(content, list):
            parts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
            content = None if None in parts else "".join(map(str, parts))
        if not isinstance(content, str):
            raise PromptError(f"a message is {message!r:.80}, expected a role and a content of text")
        role = {"developer": "system"}.get(str(message.get("role")), message.get("role"))
        found.append({"role": role, "content": content})
    return found
