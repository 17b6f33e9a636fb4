"""The native surface: sessions, their trees, turns, replies, files, replays and explanations.

Everything works on the store that the terminal uses too. A session that another program moves meanwhile, or
that waits for a reply, is refused with 409 and left as it is.
"""

from __future__ import annotations

import io
import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi import Path as InPath
from fastapi.responses import JSONResponse, Response

from niels_gpt.conversation.settings import SETTINGS, Settings, show
from niels_gpt.server import judging
from niels_gpt.server.errors import ApiError
from niels_gpt.server.event_stream import EventStream, Frames
from niels_gpt.server.forms import ReplyInfo
from niels_gpt.server.openai_api import continued, event_id
from niels_gpt.server.replies import Choice, Reply
from niels_gpt.server.requests import (
    EditRequest,
    ForkRequest,
    HeadRequest,
    NewSession,
    NewTurn,
    RetryRequest,
    SessionChange,
)
from niels_gpt.server.state import ServerState, state_of
from niels_gpt.text.system_prompt import DEFAULT_SYSTEM_PROMPT
from sessions import (
    Generation,
    Message,
    ReplyPending,
    Session,
    SessionArchive,
    SessionExists,
    SessionSummary,
    Turn,
)
from sessions.formats import FORMATS, WRITABLE, Limits, Source, read_sessions, write_sessions

router = APIRouter()
State = Annotated[ServerState, Depends(state_of)]
SessionId = Annotated[int, InPath(ge=0, lt=2**63)]
ReplyId = Annotated[str, InPath(max_length=100)]
Limit = Annotated[int, Query(ge=0, le=1000)]
Offset = Annotated[int, Query(ge=0, lt=2**31)]

_MEDIA = {".jsonl": "application/jsonl", ".md": "text/markdown", ".html": "text/html"}


@router.get("/info")
def info(state: State) -> dict[str, Any]:
    """Describe the server: its model, its fingerprint, and what can be set."""
    model = state.model
    return {
        "model": state.model_id,
        "fingerprint": state.planner.fingerprint,
        "checkpoint": model.checkpoint["fingerprint"],
        "context_length": model.context_length,
        "notice": model.notice,
        "system": _default_system(state),
        "settings": [
            {
                "key": setting.key,
                "meaning": setting.meaning,
                "allowed": setting.allowed,
                "default": show(getattr(state.settings, setting.key)),
            }
            for setting in SETTINGS.values()
        ],
        "formats": list(WRITABLE),
    }


def _default_system(state: ServerState) -> str:
    """Return the system prompt of new sessions; "" for none, as for models of other projects."""
    chat = state.options.chat
    system = chat.default_system if chat.system is None else chat.system
    return DEFAULT_SYSTEM_PROMPT if system is None else system


@router.get("/sessions")
async def list_sessions(
    state: State,
    search: Annotated[str, Query(max_length=1000)] = "",
    archived: bool = False,  # noqa: FBT001, FBT002 - a query parameter
    limit: Limit = 50,
    offset: Offset = 0,
) -> dict[str, Any]:
    """List sessions, last used first, or the messages that have all words of `search`."""
    call = state.replies.call
    if search.strip():
        hits = await call(state.store.search, search, limit=limit, offset=offset)
        return {
            "hits": [
                {
                    "session": hit.session_id,
                    "name": hit.session_name,
                    "message": hit.message_id,
                    "role": hit.role,
                    "snippet": hit.snippet,
                }
                for hit in hits
            ]
        }
    found = await call(state.store.sessions, archived=archived, limit=limit, offset=offset)
    return {"sessions": [_summary(each) for each in found]}


def _summary(each: SessionSummary) -> dict[str, Any]:
    return {
        "id": each.id,
        "name": each.name,
        "created": _moment(each.created),
        "last_used": _moment(each.last_used),
        "archived": each.archived,
        "messages": each.messages,
        "turns": each.turns,
        "first_words": each.first_words,
    }


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


@router.post("/sessions", status_code=201)
async def create_session(body: NewSession, state: State) -> dict[str, Any]:
    """Create a session; without a name it is named by the date."""
    settings = _changed(state.settings, body.settings or {}, body.seed)
    system = (_default_system(state) if body.system is None else body.system) or None
    for name in _names(body.name, f"chat-{datetime.now().astimezone():%Y-%m-%d}"):
        try:
            session = await state.replies.call(
                state.store.create_session,
                name,
                seed=settings.seed,
                system=system,
                settings=settings.stored(),
            )
        except SessionExists:
            if body.name is not None:
                raise
        else:
            return await _view(state, session.id)
    raise AssertionError("the names never end")


def _names(name: str | None, stem: str) -> Iterator[str]:
    if name is not None:
        yield name
    else:
        yield stem
        yield from (f"{stem}-{number}" for number in itertools.count(2))


def _changed(settings: Settings, values: Mapping[str, Any], seed: int | None) -> Settings:
    """Return settings with values that a client gave. Raises ApiError with the setting's name."""
    read: dict[str, Any] = {} if seed is None else {"seed": seed}
    for key, value in values.items():
        setting = SETTINGS.get(key)
        if setting is None:
            raise ApiError(
                400, f"there is no setting {key[:80]!r}; there are {', '.join(SETTINGS)}", param=key[:80]
            )
        try:
            read[key] = setting.read(_as_text(value))
        except ValueError as error:
            raise ApiError(400, f"{key}: {error}", param=key) from error
    return settings.with_values(read)


def _as_text(value: object) -> str:
    if value is None:
        return "none"
    return show(value) if isinstance(value, bool) else str(value)[:100]


@router.get("/sessions/{session_id}")
async def get_session(session_id: SessionId, state: State) -> dict[str, Any]:
    """Return a session, the messages of its path, and the reply that it waits for."""
    return await _view(state, session_id)


async def _view(state: ServerState, session_id: int) -> dict[str, Any]:
    # The pending reply first: if there is none, what follows holds every reply.
    pending = await state.replies.call(state.store.pending, session_id)
    session = await state.replies.call(state.store.session_by_id, session_id)
    path = await state.replies.call(state.store.path, session.id)
    generations = await _generations(state, session)
    return {
        "id": session.id,
        "name": session.name,
        "seed": session.seed,
        "settings": {**session.settings},
        "head": session.head_id,
        "forked_from": session.forked_from,
        "archived": session.archived,
        "created": _moment(session.created),
        "messages": [_message(each, generations) for each in path],
        "pending": None if pending is None else _pending(pending),
    }


async def _generations(state: ServerState, session: Session) -> dict[int, Generation]:
    """Return how each reply of the session's tree was made, by the message's id."""
    turns = await state.replies.call(state.store.recorded_turns, session.id, every_branch=True)
    return {turn.reply.id: turn.generation for turn in turns}


def _pending(turn: Turn) -> dict[str, Any]:
    return {"reply": str(turn.generation.id), "user": turn.user.id, "since": _moment(turn.generation.created)}


def _message(message: Message, generations: Mapping[int, Generation]) -> dict[str, Any]:
    generation = generations.get(message.id)
    return {
        "id": message.id,
        "parent": message.parent_id,
        "role": message.role,
        "content": message.content,
        "status": message.status,
        "tokens": None if message.token_ids is None else len(message.token_ids),
        "reply": None if generation is None else str(generation.id),
        "attempt": None if generation is None else generation.attempt,
        "seed": None if generation is None else str(generation.seed),
        "reason": None if generation is None else generation.finish_reason,
        "forced": 0 if generation is None else len(generation.forced_ids),
        "created": _moment(message.created),
    }


@router.get("/sessions/{session_id}/tree")
async def get_tree(session_id: SessionId, state: State) -> dict[str, Any]:
    """Return every message of the session's tree."""
    archive = await state.replies.call(state.store.export_session, session_id)
    generations = {each.reply_id: each for each in archive.generations if each.reply_id is not None}
    return {
        "head": archive.session.head_id,
        "digest": archive.digest,
        "messages": [_message(each, generations) for each in archive.messages],
    }


@router.patch("/sessions/{session_id}")
async def change_session(session_id: SessionId, body: SessionChange, state: State) -> dict[str, Any]:
    """Change a session's name, settings, seed or system prompt, or archive it."""
    call, store = state.replies.call, state.store
    session = await call(store.session_by_id, session_id)
    settings = None
    if body.settings or body.seed is not None:
        settings = _changed(_settings_of(session), body.settings or {}, body.seed)
    if body.name is not None and body.name != session.name:
        session = await call(store.rename, session_id, body.name)
    if settings is not None:
        session = await call(
            store.update_settings, session_id, settings=settings.stored(), seed=settings.seed
        )
    if body.system is not None:
        session = await call(store.set_system, session_id, body.system, expected_head=session.head_id)
    if body.archived is not None:
        session = await call(store.archive, session_id, body.archived)
    return await _view(state, session.id)


def _settings_of(session: Session) -> Settings:
    try:
        return Settings.from_stored(session.settings, seed=session.seed)
    except ValueError as error:
        raise ApiError(409, f"the session's settings are damaged: {error}") from error


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
    settings = _settings_of(session)
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
    settings = _settings_of(session)
    plan = state.planner.plan(
        path[:-1],
        user.content,
        settings,
        attempt=attempt,
        session_seed=session_seed,
        forced_ids=forced_ids,
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


async def _next_attempt(state: ServerState, session: Session, user: Message) -> int:
    made = await state.replies.call(state.store.generations, session.id)
    shared = await state.replies.call(state.store.recorded_turns, session.id, every_branch=True)
    known = [*made, *(turn.generation for turn in shared)]
    return max((each.attempt for each in known if each.user_message_id == user.id), default=-1) + 1


@router.post("/sessions/{session_id}/retry", status_code=202)
async def retry(session_id: SessionId, body: RetryRequest, state: State) -> dict[str, Any]:
    """Ask for another reply to the last user message of the path, or to the one that is named."""
    session = await _ready(state, session_id)
    path = await state.replies.call(state.store.path, session.id)
    asked = [each for each in path if each.role == "user" and body.message in {None, each.id}]
    if not asked:
        raise ApiError(404, "the session's path has no such user message", param="message")
    user = asked[-1]
    attempt = await _next_attempt(state, session, user)
    return await _again(state, session, user, attempt=attempt, session_seed=session.seed)


@router.post("/sessions/{session_id}/edit", status_code=202)
async def edit(session_id: SessionId, body: EditRequest, state: State) -> dict[str, Any]:
    """Send another text in place of a user message; the old one stays in the tree."""
    session = await _ready(state, session_id)
    path = await state.replies.call(state.store.path, session.id)
    user = next((each for each in path if each.id == body.message and each.role == "user"), None)
    if user is None:
        raise ApiError(404, "the session's path has no such user message", param="message")
    moved = await state.replies.call(
        state.store.move_head, session.id, to=user.parent_id, expected_head=session.head_id
    )
    return await _send(state, moved, body.content)


@router.post("/sessions/{session_id}/head")
async def move_head(session_id: SessionId, body: HeadRequest, state: State) -> dict[str, Any]:
    """Continue from another message of the tree; nothing is lost."""
    session = await _ready(state, session_id)
    moved = await state.replies.call(
        state.store.move_head, session.id, to=body.message, expected_head=session.head_id
    )
    return await _view(state, moved.id)


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
        attempt = await _next_attempt(state, session, turn.user)
    path = await state.replies.call(state.store.path_to, turn.user.id)
    # Before the fork: what cannot be generated leaves no session behind.
    settings = _settings_of(session)
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


@router.get("/sessions/{session_id}/export")
async def export(
    session_id: SessionId,
    state: State,
    format_name: Annotated[str, Query(alias="format", max_length=40)] = "jsonl",
) -> Response:
    """Return the session as a file."""
    archive = await state.replies.call(state.store.export_session, session_id)
    text = await state.replies.call(partial(_written, [archive], format_name))
    suffix = FORMATS[format_name].suffix
    return Response(
        text,
        media_type=_MEDIA.get(suffix, "text/plain"),
        # The session's own name may hold anything; the file is named by its id.
        headers={"content-disposition": f'attachment; filename="session-{session_id}{suffix}"'},
    )


def _written(archives: Sequence[SessionArchive], format_name: str) -> str:
    file = io.StringIO()
    write_sessions(archives, file, format_name=format_name)
    return file.getvalue()


@router.post("/import", status_code=201)
async def import_file(request: Request, state: State) -> dict[str, Any]:
    """Store all sessions of a file, given as the body, or none. A name that is taken gets a number."""
    body = await request.body()
    imported = await state.replies.call(_imported, state, body)
    return {"sessions": [{"id": each.id, "name": each.name} for each in imported]}


def _imported(state: ServerState, body: bytes) -> list[Session]:
    # Formats are told apart by looking twice, which takes a file; its name is ours.
    with tempfile.TemporaryDirectory(prefix="niels-serve-") as folder:
        path = Path(folder) / "upload"
        path.write_bytes(body)
        limits = replace(Limits(), file_bytes=state.options.max_body_bytes)
        archives = list(read_sessions(Source(path, name="the upload", limits=limits)))
    taken = {each.name for each in state.store.sessions(archived=True)}
    names: list[str] = []
    for archive in archives:
        wanted = archive.session.name
        numbered = (wanted if number == 1 else f"{wanted}-{number}" for number in itertools.count(1))
        names.append(next(each for each in numbered if each not in taken))
        taken.add(names[-1])
    return state.store.import_sessions(archives, names=names)


@router.get("/sessions/{session_id}/replay")
async def replay_session(
    session_id: SessionId,
    state: State,
    every_branch: bool = False,  # noqa: FBT001, FBT002 - a query parameter
) -> Response:
    """Generate every reply of the session again and stream a verdict on each."""
    session = await state.replies.call(state.store.session_by_id, session_id)
    frames = Frames(f"replay-{session.id}")
    return EventStream(frames, work=partial(judging.judge, state, session, frames, every_branch=every_branch))


@router.get("/sessions/{session_id}/why")
async def why(session_id: SessionId, state: State, reply: Annotated[int, Query(ge=0, lt=2**63)]) -> Response:
    """Return each token of a reply with its probability and what else could have stood there."""
    session = await state.replies.call(state.store.session_by_id, session_id)
    return JSONResponse(await judging.explained(state, session, reply))


@router.get("/sessions/{session_id}/verify")
async def verify(session_id: SessionId, state: State) -> dict[str, Any]:
    """Recompute the digests of the session's tree."""
    found = await state.replies.call(state.store.verify, session_id)
    return {
        "digest": found.digest,
        "messages": found.messages,
        "generations": found.generations,
        "faults": [asdict(each) for each in found.faults],
    }
