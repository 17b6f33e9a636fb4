"""The native surface: sessions, their trees, files, replays and explanations; `native_turns` has the rest.

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

from fastapi import APIRouter, Depends, Query, Request
from fastapi import Path as InPath
from fastapi.responses import JSONResponse, Response

from niels_gpt.conversation.settings import SETTINGS, Settings, show
from niels_gpt.server import judging
from niels_gpt.server.errors import ApiError
from niels_gpt.server.event_stream import EventStream, Frames
from niels_gpt.server.requests import (
    NewSession,
    SessionChange,
)
from niels_gpt.server.state import ServerState, state_of
from niels_gpt.text.system_prompt import DEFAULT_SYSTEM_PROMPT
from sessions import (
    Generation,
    Message,
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
            return await view(state, session.id)
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
                400, f"unknown setting {key[:80]!r}; expected one of {', '.join(SETTINGS)}", param=key[:80]
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
    return await view(state, session_id)


async def view(state: ServerState, session_id: int) -> dict[str, Any]:
    """Return a session as clients see it."""
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
        settings = _changed(settings_of(session), body.settings or {}, body.seed)
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
    return await view(state, session.id)


def settings_of(session: Session) -> Settings:
    """Return a session's settings. Raises ApiError if they are damaged."""
    try:
        return Settings.from_stored(session.settings, seed=session.seed)
    except ValueError as error:
        raise ApiError(409, f"the session's settings are damaged: {error}") from error


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
