"""The commands about whole sessions and checkpoints: list, resume, rename, export, replay, statistics.

Rows of the registry in commands.py. They ask the store, or hand over to the module that does the same from
the command line.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread

from niels_gpt.chat.commands.base import ChatActions, Command, takes_nothing
from niels_gpt.chat.stats import stats
from niels_gpt.conversation.errors import SessionTrouble
from niels_gpt.errors import NielsGptError
from niels_gpt.paths import user_path

if TYPE_CHECKING:
    from sessions import Store

_LISTED = 20


async def _sessions(desk: ChatActions, text: str) -> None:
    if not takes_nothing("/sessions", desk, text):
        return
    store, current = await desk.store(), (await desk.record()).name
    found = await anyio.to_thread.run_sync(partial(store.sessions, limit=_LISTED))
    if not found:
        desk.say("there are no sessions yet: the first message begins one")
        return
    width = max(len(each.name) for each in found)
    for each in found:
        mark = "*" if each.name == current else " "
        turns = f"{each.turns} turn{'' if each.turns == 1 else 's'}"
        desk.say(f"{mark} {each.name:<{width}}  {turns}  {' '.join(each.first_words.split())}")
    desk.say("/resume NAME goes on with one")


async def _resume(desk: ChatActions, text: str) -> None:
    if text:
        await desk.switch(text)
        await desk.record()
    else:
        name = (await desk.record()).name
        desk.say(f"/resume {name or '(a new session)'} (the name of a session; /sessions lists them)")


async def _rename(desk: ChatActions, text: str) -> None:
    record = await desk.record()
    if not text:
        desk.say(f"/rename {record.name or '(no name yet)'} (visible characters)")
        return
    await record.rename(text)
    desk.say(f"/rename {text}")


async def _stats(desk: ChatActions, text: str) -> None:
    if takes_nothing("/stats", desk, text):
        desk.say(stats(desk.facts()))


async def _model(desk: ChatActions, text: str) -> None:
    if text:
        await desk.during(desk.use(user_path(text)), "loading the model")
    desk.say(f"/model {desk.options().checkpoint}" + ("" if text else " (the path of a checkpoint)"))


async def _export(desk: ChatActions, text: str) -> None:
    record, store = await desk.record(), await desk.store()
    if record.session is None:
        raise SessionTrouble("there is nothing to export: nothing was said yet")
    if not text:
        desk.say("/export FILE (.jsonl loses nothing; .md and .html are for reading)")
        return
    from niels_gpt.cli.subcommands.export import write_file  # noqa: PLC0415 - it needs the store

    path = user_path(text)
    archive = await anyio.to_thread.run_sync(store.export_session, record.session.id)
    await anyio.to_thread.run_sync(write_file, [archive], path)
    desk.say(f"wrote session {record.name!r} to {str(path)!r}")


async def _replay(desk: ChatActions, text: str) -> None:
    if not takes_nothing("/replay", desk, text):
        return
    record, store = await desk.record(), await desk.store()
    if record.session is None:
        raise SessionTrouble("there is nothing to replay: nothing was said yet")
    # Heavy, but the model is loaded or about to be.
    from niels_gpt.conversation.model import load_model  # noqa: PLC0415
    from niels_gpt.replay.replay import replay  # noqa: PLC0415
    from niels_gpt.replay.report import summary_lines, turn_lines  # noqa: PLC0415

    async def work(name: str) -> None:
        found = await replay(store, name, desk.options(), load_model)
        tokens = sum(len(question.recorded.reply.token_ids or ()) for question in found.questions)
        for verdict in found.verdicts:
            desk.say("\n".join(turn_lines(verdict)))
        desk.say("\n".join(summary_lines(found, tokens=tokens)))

    await desk.during(work(record.session.name), "replaying")


def _session_names(store: Store | None, prefix: str) -> Iterable[str]:
    return () if store is None else store.names(prefix)


def _paths(store: Store | None, prefix: str) -> Iterable[str]:
    """Offer folders and checkpoints that begin as typed."""
    del store
    folder, beginning = Path(prefix).parent, Path(prefix).name
    if prefix.endswith("/"):
        folder, beginning = Path(prefix), ""
    try:
        found = sorted(user_path(folder).iterdir())
    except (OSError, NielsGptError):
        return
    for path in found:
        if path.name.startswith(beginning) and (beginning or not path.name.startswith(".")):
            shown = str(folder / path.name)
            if path.is_dir():
                yield shown + "/"
            elif path.suffix == ".pt":
                yield shown


SESSION_COMMANDS: tuple[Command, ...] = (
    Command(name="/sessions", value="", help=f"the last {_LISTED} sessions", run=_sessions),
    Command(
        name="/resume",
        value="NAME",
        help="go on with another session",
        allowed="the name of a session",
        complete=_session_names,
        run=_resume,
    ),
    Command(
        name="/rename",
        value="NAME",
        help="give this session another name",
        allowed="visible characters",
        run=_rename,
    ),
    Command(
        name="/model",
        value="PATH",
        help="another checkpoint, the same conversation",
        allowed="the path of a checkpoint",
        complete=_paths,
        run=_model,
    ),
    Command(name="/stats", value="", help="tokens, context and speed", run=_stats),
    Command(
        name="/export",
        value="FILE",
        help="write this session to a file (.jsonl, .md, .html)",
        allowed="the path of a file that is not there",
        run=_export,
    ),
    Command(name="/replay", value="", help="make every reply again and compare", run=_replay),
)
