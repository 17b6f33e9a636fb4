"""OpenAI's surface: models, chat completions, completions, responses, and the tokenizer.

A chat completion and a response are stored as sessions of their own, named by the id of the answer, so that
`niels-chat replay ID` and `verify` work on them. They stay out of the list of sessions. A plain completion is
no conversation and is not stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Header, Request
from fastapi.responses import JSONResponse, Response

from niels_gpt.conversation.context import TextMessage
from niels_gpt.server.answers import (
    answer,
    begin,
    choices_of,
    continued,
    event_id,
    info_of,
    loose_choices,
    new_id,
)
from niels_gpt.server.errors import ApiError
from niels_gpt.server.forms import Outcome
from niels_gpt.server.logprobs import TokenLogprobs
from niels_gpt.server.openai_forms import CompletionForm, EchoedPrompt
from niels_gpt.server.reply import Asked
from niels_gpt.server.requests import (
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    ResponseRequest,
    TokenizeRequest,
)
from niels_gpt.server.state import ServerState, state_of
from sessions import Message, SessionNotFound

if TYPE_CHECKING:
    pass

router = APIRouter()
State = Annotated[ServerState, Depends(state_of)]
LastEventId = Annotated[str | None, Header(alias="last-event-id")]

_DEFAULT_COMPLETION = 16  # tokens, as OpenAI documents
_MOST_RUNS = 1024  # choices of one request


@router.get("/v1/models")
def list_models(state: State) -> dict[str, Any]:
    """List the one model."""
    return {"object": "list", "data": [_model(state)]}


@router.get("/v1/models/{model_id}")
def get_model(model_id: str, state: State) -> dict[str, Any]:
    """Describe the model."""
    state.check_model(model_id)
    return _model(state)


def _model(state: ServerState) -> dict[str, Any]:
    return {
        "id": state.model_id,
        "object": "model",
        "created": 0,
        "owned_by": "niels-gpt",
        "system_fingerprint": state.planner.fingerprint,
        "max_model_len": state.model.context_length,
    }


@router.post("/v1/chat/completions")
async def create_chat_completion(
    body: ChatRequest, request: Request, state: State, last_event_id: LastEventId = None
) -> Response:
    """Answer a conversation."""
    if last_event_id is not None:
        # The request of a stream that broke, sent once more: it continues.
        return await continued(state, *event_id(last_event_id))
    state.check_model(body.model)
    messages = _merged(body.messages)
    count = body.n or 1
    settings = state.settings_of(body, body.max_completion_tokens or body.max_tokens)
    top = (body.top_logprobs or 0) if body.logprobs else None
    asked = Asked(
        form="chat.completion",
        model=state.model_id,
        choices=count,
        include_usage=body.include_usage,
        top_logprobs=top,
    )
    path = [TextMessage(role=role, content=text) for role, text in messages[:-1]]
    plans = [
        state.planner.plan(
            path,
            messages[-1][1],
            settings,
            attempt=attempt,
            asked=asked.model_dump(exclude_defaults=True),
        )
        for attempt in range(count)
    ]
    reply_id = new_id("chatcmpl-")
    choices = await choices_of(state, reply_id, messages, settings, plans, stored=body.store is not False)
    reply = await begin(state, reply_id, asked, choices)
    return await answer(reply, request, stream=bool(body.stream))


def _merged(messages: Sequence[ChatMessage]) -> list[tuple[str, str]]:
    """Return (role, text) of each message; neighbours of one role become one message. Raises ApiError."""
    found: list[tuple[str, str]] = []
    for message in messages:
        role = "system" if message.role == "developer" else message.role
        if found and found[-1][0] == role:
            found[-1] = role, f"{found[-1][1]}\n\n{message.text}"
        else:
            found.append((role, message.text))
    if found[-1][0] != "user":
        raise ApiError(
            400, f"the last message is of the role {found[-1][0]!r}, expected 'user'", param="messages"
        )
    return found


@router.post("/v1/completions")
async def create_completion(body: CompletionRequest, request: Request, state: State) -> Response:
    """Continue texts as they stand. Nothing is stored; a client that leaves ends its replies."""
    state.check_model(body.model)
    prompts = _prompts(state, body)
    count, most = body.n or 1, _DEFAULT_COMPLETION if body.max_tokens is None else body.max_tokens
    if len(prompts) * count > _MOST_RUNS:
        raise ApiError(400, f"{len(prompts)} prompts times n={count} is more than {_MOST_RUNS}", param="n")
    asked = Asked(
        form="text_completion",
        model=state.model_id,
        include_usage=body.include_usage,
        top_logprobs=body.logprobs,
    )
    settings = state.settings_of(body, max(1, most))
    requests = [state.planner.raw(ids, settings, attempt) for ids in prompts for attempt in range(count)]
    echoed = [each for ids in prompts for each in [await _echoed(state, ids, body.logprobs)] * count]
    if not body.echo:
        echoed = []
    reply_id = new_id("cmpl-")
    if most == 0:
        outcomes = [
            Outcome(prompt_tokens=len(each.prompt_ids), seed=settings.seed, reason="length")
            for each in requests
        ]
        info = info_of(state, reply_id, asked, created=None)
        return JSONResponse(CompletionForm(info, state.replies.vocabulary, echoed).body(outcomes))
    reply = await begin(state, reply_id, asked, loose_choices(requests, settings), echoed)
    return await answer(reply, request, stream=bool(body.stream))


def _prompts(state: ServerState, body: CompletionRequest) -> list[tuple[int, ...]]:
    """Return the ids of each prompt. Raises ApiError for an empty one or an unknown id."""
    prompt: Any = body.prompt
    listed = [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else prompt
    encode, most = state.model.tokenizer.encode_ids, state.model.tokenizer.vocab_size
    found = [tuple(encode(each) if isinstance(each, str) else each) for each in listed]
    for ids in found:
        if not ids:
            raise ApiError(400, "a prompt is empty, expected at least one token", param="prompt")
        if max(ids) >= most:
            raise ApiError(
                400, f"a prompt has the token id {max(ids)}, expected 0 to {most - 1}", param="prompt"
            )
    return found


async def _echoed(state: ServerState, ids: tuple[int, ...], count: int | None) -> EchoedPrompt:
    """Return a prompt with the log-probabilities of its tokens, if asked for."""
    seen: list[TokenLogprobs | None] = [None] * len(ids)
    if count is not None and len(ids) > 1:
        seen[1:] = await state.replies.score(ids[:1], ids[1:], count)
    return EchoedPrompt(text=state.model.tokenizer.decode(ids), token_ids=ids, logprobs=tuple(seen))


@router.post("/v1/responses")
async def create_response(
    body: ResponseRequest, request: Request, state: State, last_event_id: LastEventId = None
) -> Response:
    """Answer a text or messages, after an earlier response if one is named."""
    if last_event_id is not None:
        return await continued(state, *event_id(last_event_id))
    state.check_model(body.model)
    given = [ChatMessage(role="user", content=body.input)] if isinstance(body.input, str) else body.input
    messages = _merged(
        [
            *([ChatMessage(role="system", content=body.instructions)] if body.instructions else []),
            *([] if body.previous_response_id is None else await _before(state, body.previous_response_id)),
            *given,
        ]
    )
    settings = state.settings_of(body, body.max_output_tokens)
    asked = Asked(
        form="response",
        model=state.model_id,
        instructions=body.instructions,
        previous=body.previous_response_id,
    )
    path = [TextMessage(role=role, content=text) for role, text in messages[:-1]]
    plan = state.planner.plan(path, messages[-1][1], settings, asked=asked.model_dump(exclude_defaults=True))
    reply_id = new_id("resp_")
    choices = await choices_of(state, reply_id, messages, settings, [plan], stored=body.store is not False)
    return await answer(await begin(state, reply_id, asked, choices), request, stream=bool(body.stream))


async def _before(state: ServerState, response_id: str) -> list[ChatMessage]:
    """Return the conversation up to an earlier response; its instructions are not carried over."""
    if not response_id.startswith("resp_"):
        raise ApiError(404, f"unknown response {response_id[:80]!r}", param="previous_response_id")
    try:
        session = await state.replies.call(state.store.session, response_id)
    except SessionNotFound as error:
        raise ApiError(404, f"unknown response {response_id[:80]!r}", param="previous_response_id") from error
    path: list[Message] = await state.replies.call(state.store.path, session.id)
    if path[-1].role != "assistant":
        raise ApiError(409, "the earlier response is not whole yet", param="previous_response_id")
    return [
        ChatMessage(role=message.role, content=message.content)
        for message in path
        if message.role != "system"
    ]


@router.get("/v1/responses/{response_id}")
async def get_response(  # noqa: PLR0917 - FastAPI passes them by name
    response_id: str,
    request: Request,
    state: State,
    stream: bool = False,  # noqa: FBT001, FBT002 - a query parameter of OpenAI's surface
    starting_after: int = -1,
    last_event_id: LastEventId = None,
) -> Response:
    """Return a stored response, or the rest of its stream."""
    if not response_id.startswith("resp_"):
        raise ApiError(404, f"unknown response {response_id[:80]!r}")
    if last_event_id is not None:
        starting_after = event_id(last_event_id)[1]
    if stream:
        return await continued(state, response_id, max(-1, starting_after))
    reply = await state.replies.find(response_id)
    return await answer(reply, request, stream=False)


@router.post("/v1/responses/{response_id}/cancel")
async def cancel_response(response_id: str, request: Request, state: State) -> Response:
    """Stop a response; what was said until then stays stored."""
    if not response_id.startswith("resp_"):
        raise ApiError(404, f"unknown response {response_id[:80]!r}")
    reply = await state.replies.find(response_id)
    reply.cancel()
    return await answer(reply, request, stream=False)


@router.post("/tokenize")
def tokenize(body: TokenizeRequest, state: State) -> dict[str, Any]:
    """Return the ids of a text, or of messages under the model's template."""
    model = state.model
    if body.messages is not None:
        merged = [{"role": role, "content": text} for role, text in _merged(body.messages)]
        ids = list(model.template.prompt_ids(merged))
    else:
        text = next((each for each in (body.content, body.prompt, body.text) if each is not None), None)
        if text is None:
            raise ApiError(400, "expected a text as 'content', or 'messages'", param="content")
        ids = model.tokenizer.encode_ids(text)
    return {"tokens": ids, "count": len(ids), "max_model_len": model.context_length}


@router.post("/detokenize")
def detokenize(body: DetokenizeRequest, state: State) -> dict[str, Any]:
    """Return the text of ids."""
    text = state.model.tokenizer.decode(body.tokens)
    return {"content": text, "prompt": text}
