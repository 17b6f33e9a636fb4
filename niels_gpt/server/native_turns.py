"""The native surface of turns: messages, retries, edits, forks, and the replies to them.

A session that another program moves meanwhile, or that waits for a reply, is refused with 409 and left as it
is.
"""

from __future__ import annotations

import itertools
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from fastapi import Path as InPath
from fastapi.responses import Response

from niels_gpt.server.answers import continued, event_id
from niels_gpt.server.errors import ApiError
from niels_gpt.server.forms import ReplyInfo
from niels_gpt.server.native_api import SessionId, State, settings_of, view
from niels_gpt.server.reply import Choice, Reply
from niels_gpt.server.requests import EditRequest, ForkRequest, HeadRequest, NewTurn, RetryRequest
from niels_gpt.server.state import ServerState
from sessions import Message, RecordedTurn, ReplyPending, Session, SessionExists, Turn

router = APIRouter()
ReplyId = Annotated[str, InPath(max_length=100)]


@router.post("/sessions/{session_id}/turns", status_code=202)
async def create_turn(session_id: SessionId, body: NewTurn, state: State) -> dict[str, Any]:
    """Send a message; its reply is followed at `/api/replies/ID/events`."""
    session = await _ready(state, session_id)
    if body.expected_head is not None and body.expected_head != session.head_id:
        raise ApiError(409, "another program continued this session; read it again", code="head_moved")
    return await _send(state, session, body.content)


async def _ready(state: ServerState, session_id: int) -> Session:
    """Return a session that waits for no reply; one that was interrupted is finished first."""
    pending = await state.replies.call(state.store.pending, session_id)
    if pending is not None:
        reply_id = str(pending.generation.id)
        if state.replies.is_running(reply_id):
            raise ReplyPending(
                pending.session.name,
                generation_id=pending.generation.id,
                since=f"{pending.generation.created:%F %T} UTC",
            )
        reply = await state.replies.find(reply_id)
        await reply.ended.wait()
    return await state.replies.call(state.store.session_by_id, session_id)


async def _send(state: ServerState, session: Session, content: str) -> dict[str, Any]:
    path = await state.replies.call(state.store.path, session.id)
    settings = settings_of(session)
    plan = state.planner.plan(path, content, settings)
    state.replies.check_room(1)
    begun = await state.replies.call(
        state.store.begin_turn,
        session.id,
        content=content,
        expected_head=session.head_id,
        generation=plan.generation,
    )
    return _begun(await _start(state, begun, plan.request, settings.seed), begun)


async def _start(state: ServerState, turn: Turn, request: Any, seed: int) -> Reply:
    generation = turn.generation
    heading = ReplyInfo(
        id=str(generation.id),
        form="native",
        created=int(generation.created.timestamp()),
        model=state.model_id,
        fingerprint=state.planner.fingerprint,
    )
    return await state.replies.begin(heading, [Choice(request=request, turn=turn, seed=seed)])


def _begun(reply: Reply, turn: Turn) -> dict[str, Any]:
    return {
        "reply": reply.info.id,
        "session": turn.session.id,
        "name": turn.session.name,
        "user": turn.user.id,
        "events": f"/api/replies/{reply.info.id}/events",
    }


async def _again(
    state: ServerState,
    session: Session,
    user: Message,
    *,
    attempt: int,
    session_seed: int,
    forced_ids: tuple[int, ...] = (),
) -> dict[str, Any]:
    """Ask for another reply to a message of the session's path."""
    path = await state.replies.call(state.store.path_to, user.id)
    settings = settings_of(session)
    plan = state.planner.plan(
        path[:-1],
        user.content,
        settings,
        attempt=attempt,
        session_seed=session_seed,
        forced_ids=forced_ids,
        examples=await _variants(state, session, user),
    )
    state.replies.check_room(1)
    turn = await state.replies.call(
        state.store.begin_retry,
        session.id,
        user_message_id=user.id,
        generation=plan.generation,
        expected_head=session.head_id,
    )
    return _begun(await _start(state, turn, plan.request, session_seed), turn)


async def _variants(state: ServerState, session: Session, user: Message) -> list[RecordedTurn]:
    """Return the turns in the place of a message, where they make another reply faster."""
    if not state.planner.model.drafts:
        return []
    return await state.replies.call(state.store.variants, session.id, user.id)


@router.post("/sessions/{session_id}/retry", status_code=202)
async def retry(session_id: SessionId, body: RetryRequest, state: State) -> dict[str, Any]:
    """Ask for another reply to the last user message of the path, or to the one that is named."""
    session = await _ready(state, session_id)
    path = await state.replies.call(state.store.path, session.id)
    asked = [each for each in path if each.role == "user" and body.message in {None, each.id}]
    if not asked:
        raise ApiError(404, "the session's path has no such user message", param="message")
    user = asked[-1]
    attempt = await state.replies.call(state.store.next_attempt, session.id, user.id)
    return await _again(state, session, user, attempt=attempt, session_seed=session.seed)


@router.post("/sessions/{session_id}/edit", status_code=202)
async def edit(session_id: SessionId, body: EditRequest, state: State) -> dict[str, Any]:
    """Send another text in place of a user message; the old one stays in the tree."""
    session = await _ready(state, session_id)
    path = await state.replies.call(state.store.path, session.id)
    user = next((each for each in path if each.id == body.message and each.role == "user"), None)
    if user is None:
        raise ApiError(404, "the session's path has no such user message", param="message")
    settings = settings_of(session)
    plan = state.planner.plan(
        path[: user.position], body.content, settings, examples=await _variants(state, session, user)
    )
    state.replies.check_room(1)
    begun = await state.replies.call(
        state.store.begin_edit,
        session.id,
        user_message_id=user.id,
        content=body.content,
        expected_head=session.head_id,
        generation=plan.generation,
    )
    return _begun(await _start(state, begun, plan.request, settings.seed), begun)


@router.post("/sessions/{session_id}/head")
async def move_head(session_id: SessionId, body: HeadRequest, state: State) -> dict[str, Any]:
    """Continue from another message of the tree; nothing is lost."""
    session = await _ready(state, session_id)
    moved = await state.replies.call(
        state.store.move_head, session.id, to=body.message, expected_head=session.head_id
    )
    return await view(state, moved.id)


@router.post("/sessions/{session_id}/fork", status_code=201)
async def fork(session_id: SessionId, body: ForkRequest, state: State) -> dict[str, Any]:
    """Fork after a message, or inside of a reply: its first `keep` tokens, then another continuation."""
    session = await state.replies.call(state.store.session_by_id, session_id)
    if body.reply is None:
        forked = await _fork(state, session, body.name, at=body.at, seed=body.seed)
        return {"session": forked.id, "name": forked.name, "reply": None}
    turns = await state.replies.call(state.store.recorded_turns, session.id, every_branch=True)
    turn = next((each for each in turns if each.generation.id == body.reply), None)
    if turn is None:
        raise ApiError(404, "the session's tree has no such reply", param="reply")
    ids, keep = turn.reply.token_ids or (), body.keep or 0
    most = len(ids) - (turn.generation.finish_reason == "stop")
    if keep > most:
        raise ApiError(400, f"the reply has {most} tokens before its end, cannot keep {keep}", param="keep")
    forced_ids = ids[:keep] + (() if body.token is None else (body.token,))
    if not set(forced_ids).isdisjoint(state.model.template.stop_ids):
        raise ApiError(400, "this token ends the reply, so nothing is left to generate", param="token")
    seed = session.seed if body.seed is None else body.seed
    if body.token is not None:
        attempt = turn.generation.attempt  # with the old draws behind the other token
    elif body.seed is not None:
        attempt = 0
    else:
        attempt = await state.replies.call(state.store.next_attempt, session.id, turn.user.id)
    path = await state.replies.call(state.store.path_to, turn.user.id)
    # Before the fork: what cannot be generated leaves no session behind.
    settings = settings_of(session)
    state.planner.plan(
        path[:-1], turn.user.content, settings, attempt=attempt, session_seed=seed, forced_ids=forced_ids
    )
    forked = await _fork(state, session, body.name, at=turn.user.id, seed=body.seed)
    return await _again(state, forked, turn.user, attempt=attempt, session_seed=seed, forced_ids=forced_ids)


async def _fork(
    state: ServerState, session: Session, name: str | None, *, at: int | None, seed: int | None
) -> Session:
    numbered = (f"{session.name}-{number}" for number in itertools.count(1))
    for tried in [name] if name is not None else numbered:
        try:
            return await state.replies.call(state.store.fork, session.id, name=tried, at=at, seed=seed)
        except SessionExists:
            if name is not None:
                raise
    raise AssertionError("the names never end")


@router.get("/replies/{reply_id}")
async def get_reply(reply_id: ReplyId, state: State) -> dict[str, Any]:
    """Return what there is of a reply, whole or not."""
    reply = await state.replies.find(reply_id)
    if reply.failure is not None:
        raise reply.failure
    return {**reply.form.body(reply.outcomes), "whole": reply.whole, "events": len(reply.frames)}


@router.get("/replies/{reply_id}/events")
async def reply_events(
    reply_id: ReplyId,
    state: State,
    after: Annotated[int, Query(ge=-1, lt=2**31)] = -1,
    last_event_id: Annotated[str | None, Header(alias="last-event-id")] = None,
) -> Response:
    """Stream a reply's events from the beginning, or behind the number `after` or Last-Event-ID."""
    if last_event_id is not None:
        after = event_id(last_event_id)[1]
    return await continued(state, reply_id, after)


@router.delete("/replies/{reply_id}")
async def stop_reply(reply_id: ReplyId, state: State) -> dict[str, Any]:
    """Stop a reply; what was said until then stays stored."""
    reply = await state.replies.find(reply_id)
    reply.cancel()
    await reply.ended.wait()
    return {"reply": reply_id, "reasons": [outcome.reason for outcome in reply.outcomes]}
