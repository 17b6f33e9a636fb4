"""From planned replies to the answer that a client gets: choices, a stream of frames, or a whole body."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import anyio
from fastapi import Request
from fastapi.responses import JSONResponse, Response
from starlette.types import Receive

from niels_gpt.conversation.planning import Plan
from niels_gpt.conversation.settings import Settings
from niels_gpt.server.errors import ApiError
from niels_gpt.server.event_stream import EventStream
from niels_gpt.server.forms import ReplyInfo
from niels_gpt.server.openai_forms import CompletionForm, EchoedPrompt
from niels_gpt.server.replies import choice_names
from niels_gpt.server.reply import Asked, Choice, Reply
from niels_gpt.server.state import ServerState

if TYPE_CHECKING:
    from niels_gpt.decoding.request import GenerationRequest


def new_id(prefix: str) -> str:
    """Return an id that nothing else has."""
    return prefix + secrets.token_hex(12)


async def choices_of(
    state: ServerState,
    reply_id: str,
    messages: Sequence[tuple[str, str]],
    settings: Settings,
    plans: Sequence[Plan],
    *,
    stored: bool,
) -> list[Choice]:
    """Return the planned replies, each stored as a session of its own if they are to be stored."""
    if not stored:
        return loose_choices([plan.request for plan in plans], settings)
    found: list[Choice] = []
    state.replies.check_room(len(plans))
    for name, plan in zip(choice_names(reply_id, len(plans)), plans, strict=True):
        turn = await state.replies.call(
            state.store.begin_session,
            name,
            seed=settings.seed,
            settings=settings.stored(),
            messages=messages,
            generation=plan.generation,
            archived=True,
        )
        found.append(Choice(request=plan.request, turn=turn, seed=settings.seed))
    return found


def loose_choices(requests: Sequence[GenerationRequest], settings: Settings) -> list[Choice]:
    """Return replies of which nothing is stored."""
    return [Choice(request=request, seed=settings.seed) for request in requests]


async def begin(
    state: ServerState,
    reply_id: str,
    asked: Asked,
    choices: Sequence[Choice],
    echoed: Sequence[EchoedPrompt] = (),
) -> Reply:
    """Start the replies of one response. Raises EngineFull, EngineClosed."""
    first = choices[0].turn
    info = info_of(
        state, reply_id, asked, created=None if first is None else first.generation.created.timestamp()
    )
    form = CompletionForm(info, state.replies.vocabulary, echoed) if echoed else None
    return await state.replies.begin(info, choices, form)


def info_of(state: ServerState, reply_id: str, asked: Asked, *, created: float | None) -> ReplyInfo:
    """Return what a stream is headed with; `created` is None for a reply that is not stored."""
    return ReplyInfo(
        id=reply_id,
        form=asked.form,
        created=int(time.time() if created is None else created),
        model=asked.model,
        fingerprint=state.planner.fingerprint,
        choices=asked.choices,
        include_usage=asked.include_usage,
        top_logprobs=asked.top_logprobs,
        instructions=asked.instructions,
        previous=asked.previous,
        stored=created is not None,
    )


async def answer(reply: Reply, request: Request, *, stream: bool) -> Response:
    """Return a reply as a stream, or whole once it has ended.

    Raises:
        ApiError: The reply failed, or the server ends before the reply does.

    """
    headers = {"X-Niels-Reply": reply.info.id}
    if stream:
        return EventStream(reply.frames, following=reply.following, headers=headers)
    with ExitStack() as stack:
        stack.enter_context(reply.following())
        await _ended_or_gone(reply, request.receive)
    if reply.failure is not None:
        raise reply.failure
    if not reply.whole:
        raise ApiError(503, "the server is shutting down; ask for this reply again", code="shutting_down")
    return JSONResponse(reply.form.body(reply.outcomes), headers=headers)


async def _ended_or_gone(reply: Reply, receive: Receive) -> None:
    """Wait for a reply's end, or until its client is gone."""

    async def watch(scope: anyio.CancelScope) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch, tasks.cancel_scope)
        await reply.ended.wait()
        tasks.cancel_scope.cancel()


def event_id(last_event_id: str) -> tuple[str, int]:
    """Return the reply and the number behind an event's id. Raises ApiError."""
    reply_id, _, number = last_event_id.rpartition(":")
    if not reply_id or not number.isascii() or not number.isdecimal() or len(number) > 12:
        raise ApiError(
            400,
            f"Last-Event-ID is {last_event_id[:80]!r}, expected the id of an event of a reply, REPLY:NUMBER",
            param="Last-Event-ID",
        )
    return reply_id, int(number)


async def continued(state: ServerState, reply_id: str, after: int) -> Response:
    """Return the rest of a reply's stream, behind the event number `after`."""
    reply = await state.replies.find(reply_id)
    return EventStream(
        reply.frames, start=after + 1, following=reply.following, headers={"X-Niels-Reply": reply.info.id}
    )
