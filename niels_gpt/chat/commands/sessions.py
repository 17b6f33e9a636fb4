"""The commands about whole sessions and checkpoints: list, resume, rename, export, replay, statistics."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread

from niels_gpt.chat.commands.base import Command, of_store, takes_nothing
from niels_gpt.chat.stats import stats
from niels_gpt.conversation.errors import SessionTrouble
from niels_gpt.errors import NielsGptError
from niels_gpt.paths import user_path

if TYPE_CHECKING:
    from niels_gpt.chat.controller import Controller
    from sessions import Store

_LISTED = 20
_FORMATS = (".jsonl", ".md", ".markdown", ".html", ".htm")


async def _sessions(chat: Controller, text: str) -> None:
    from niels_gpt.terminal.table import counted, cut, one_line  # noqa: PLC0415 - it measures columns

    if not takes_nothing("/sessions", chat, text):
        return
    store, current = await chat.store(), (await chat.open_session()).name
    found = await of_store(partial(store.sessions, limit=_LISTED))
    if not found:
        chat.say("there are no sessions yet: the first message starts one")
        return
    width = max(len(each.name) for each in found)
    for each in found:
        mark = "*" if each.name == current else " "
        line = f"{mark} {each.name:<{width}}  {counted(each.turns, 'turn')}  {one_line(each.first_words)}"
        chat.say(cut(line, chat.columns() - 1).rstrip())
    chat.say("use /resume NAME to open one")


async def _resume(chat: Controller, text: str) -> None:
    if text:
        await chat.switch(text)
        await chat.open_session()
    else:
        name = (await chat.open_session()).name
        chat.say(f"this session is {name or 'new'!r}; /resume NAME opens another, /sessions lists them")


async def _search(chat: Controller, text: str) -> None:
    from niels_gpt.terminal.table import cut, local_time, one_line  # noqa: PLC0415

    if not text:
        chat.say("usage: /search WORDS finds the messages that have all of them")
        return
    store = await chat.store()
    found = await of_store(partial(store.search, text, limit=_LISTED))
    for each in found:
        place = f"{one_line(each.session_name)}, {each.role}, {local_time(each.created)}"
        chat.say(cut(f"{place}: {one_line(each.snippet)}", chat.columns() - 1))
    chat.say("use /resume NAME to open one" if found else f"no matches for {text!r}")


async def _delete(chat: Controller, text: str) -> None:
    session, store = await chat.open_session(), await chat.store()
    if not text:
        chat.say("usage: /delete NAME archives another session; niels-chat restore NAME brings it back")
        return
    if text == session.name:
        raise SessionTrouble("you are in this session: /resume another one first")

    found = await of_store(store.session, text)
    await of_store(store.archive, found.id)
    chat.say(f"archived {text!r}; niels-chat restore {shlex.quote(text)} brings it back")


async def _rename(chat: Controller, text: str) -> None:
    session = await chat.open_session()
    if not text:
        chat.say(f"this session is {session.name or 'new'!r}; /rename NAME changes it")
        return
    await session.rename(text)
    chat.say(f"renamed to {text!r}")


async def _stats(chat: Controller, text: str) -> None:
    if takes_nothing("/stats", chat, text):
        chat.say(stats(chat.stats()))


async def _model(chat: Controller, text: str) -> None:
    if text:
        await chat.during(chat.use(user_path(text)), lambda: "loading the model")
        chat.say(f"now answering: {chat.options().checkpoint}")
    else:
        chat.say(f"answering: {chat.options().checkpoint}; /model PATH changes it")


async def _export(chat: Controller, text: str) -> None:
    session, store = await chat.open_session(), await chat.store()
    if not text:
        chat.say("usage: /export FILE (.jsonl loses nothing; .md and .html are for reading)")
        return
    if session.stored is None:
        raise SessionTrouble("nothing to export yet")
    path = user_path(text)
    if path.suffix.lower() not in _FORMATS:
        raise SessionTrouble(f"unknown format {path.suffix!r}; the name ends in .jsonl, .md or .html")
    if path.exists():
        raise SessionTrouble(f"{str(path)!r} already exists; choose another name")
    from niels_gpt.cli.subcommands.export import write_file  # noqa: PLC0415 - it needs the store

    archive = await of_store(store.export_session, session.stored.id)
    await anyio.to_thread.run_sync(write_file, [archive], path)
    chat.say(f"wrote session {session.name!r} to {str(path)!r}")


async def _read(chat: Controller, text: str) -> None:
    from niels_gpt.text.attachments import attach  # noqa: PLC0415 - few attach a file

    if text == "none":
        chat.say(f"detached {chat.drop_attached()}")
    elif text:
        chat.attach(await anyio.to_thread.run_sync(attach, user_path(text)))
    else:
        chat.say("usage: /read FILE attaches a text file to your next message, /read none detaches all")
    chat.name_attached()


async def _replay(chat: Controller, text: str) -> None:
    if not takes_nothing("/replay", chat, text):
        return
    session, store = await chat.open_session(), await chat.store()
    if session.stored is None:
        raise SessionTrouble("nothing to replay yet")
    await session.save()
    # Heavy, but the model is loaded or about to be.
    from niels_gpt.conversation.opening import open_model  # noqa: PLC0415
    from niels_gpt.replay.replay import replay  # noqa: PLC0415
    from niels_gpt.replay.report import report_lines  # noqa: PLC0415

    done: tuple[int, int] | None = None

    def progress(replies: int, total: int) -> None:
        nonlocal done
        done = (replies, total)

    def label() -> str:
        return "loading the checkpoint" if done is None else f"replaying: {done[0]} of {done[1]} replies"

    async def work(name: str) -> None:
        found = await replay(store, name, chat.options(), open_model, on_progress=progress)
        chat.say("\n".join(report_lines(found)))

    await chat.during(work(session.stored.name), label)


def _session_names(store: Store | None, prefix: str) -> Iterable[str]:
    return () if store is None else store.names(prefix)


def _paths(store: Store | None, prefix: str) -> Iterable[str]:
    """Offer folders and checkpoints that begin as typed."""
    del store
    return (path for path in _files(prefix) if path.endswith(("/", ".pt", ".gguf")))


def _readable(store: Store | None, prefix: str) -> Iterable[str]:
    """Offer folders and files that begin as typed."""
    del store
    return _files(prefix)


def _files(prefix: str) -> Iterable[str]:
    folder, beginning = Path(prefix).parent, Path(prefix).name
    if prefix.endswith("/"):
        folder, beginning = Path(prefix), ""
    try:
        found = sorted(user_path(folder).iterdir())
    except (OSError, NielsGptError):
        return
    for path in found:
        if path.name.startswith(beginning) and (beginning or not path.name.startswith(".")):
            yield f"{folder / path.name}{'/' if path.is_dir() else ''}"


SESSION_COMMANDS: tuple[Command, ...] = (
    Command(
        name="/sessions", value="", help=f"list the last {_LISTED} sessions", group="sessions", run=_sessions
    ),
    Command(
        name="/resume",
        value="NAME",
        help="resume another session",
        group="sessions",
        allowed="the name of a session",
        complete=_session_names,
        run=_resume,
    ),
    Command(
        name="/search",
        value="WORDS",
        help="find messages in all sessions",
        group="sessions",
        allowed="words that a message must have, all of them",
        run=_search,
    ),
    Command(
        name="/delete",
        value="NAME",
        help="archive another session",
        group="sessions",
        allowed="the name of a session",
        complete=_session_names,
        run=_delete,
    ),
    Command(
        name="/rename",
        value="NAME",
        help="give this session another name",
        group="sessions",
        allowed="visible characters",
        run=_rename,
    ),
    Command(
        name="/model",
        value="PATH",
        help="answer with another checkpoint, in the same conversation",
        group="model",
        allowed="the path of a checkpoint",
        complete=_paths,
        run=_model,
    ),
    Command(
        name="/read",
        value="FILE",
        help="attach a text file to the next message",
        group="conversation",
        allowed="the path of a UTF-8 text file, or none",
        complete=_readable,
        run=_read,
    ),
    Command(name="/stats", value="", help="show tokens, context and speed", group="model", run=_stats),
    Command(
        name="/export",
        value="FILE",
        help="write this session to a file (.jsonl, .md, .html)",
        group="sessions",
        allowed="the path of a file that does not exist",
        run=_export,
    ),
    Command(
        name="/replay", value="", help="make every reply again and compare", group="conversation", run=_replay
    ),
)
