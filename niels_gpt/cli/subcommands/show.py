"""`niels-chat show NAME`: print a session as a transcript, or as a tree with all of its branches."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import TYPE_CHECKING

from niels_gpt.cli.exit_codes import DIVERGED, OK
from niels_gpt.cli.subcommands import helpers
from niels_gpt.terminal.message_tree import tree_lines
from niels_gpt.terminal.render import ASKED, BOLD, DIM
from niels_gpt.terminal.table import (
    counted,
    local_time,
    one_line,
    packed,
    styled,
    width_of_output,
    wrapped,
)
from niels_gpt.text.control_characters import harmless

if TYPE_CHECKING:
    from sessions import Message, SessionArchive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    helpers.add_name(parser)
    helpers.add_store(parser)
    helpers.add_json(parser)
    parser.add_argument("--tree", action="store_true", help="every branch, one line per message")


def run(flags: argparse.Namespace) -> int:
    """Print the session."""
    with helpers.opened_store(flags) as store:
        from sessions.formats.builder import path_of  # noqa: PLC0415 - heavy, as the store is

        session = helpers.chosen_session(flags, store)
        archive = store.export_session(session.id)
        faults = store.verify(session.id).faults
    if faults:
        helpers.remark(
            f"{counted(len(faults), 'fault')} in this session: it was damaged or changed; run "
            f"niels-chat verify {shlex.quote(session.name)} for details"
        )
    status = DIVERGED if faults else OK
    path = path_of(archive)
    if flags.json:
        helpers.emit_json(archive if flags.tree else _only(archive, path))
        return status
    width = width_of_output()
    lines = list(_heading(archive, path, width))
    if flags.tree:
        on_path = {message.id for message in path}
        lines += ["", *tree_lines(archive.messages, on_path, archive.session.head_id, width)]
    else:
        lines += _transcript(path, width)
    helpers.print_page(lines)
    return status


def _only(archive: SessionArchive, path: Sequence[Message]) -> SessionArchive:
    """Return the archive without what is not on the path."""
    ids = {message.id for message in path}
    generations = tuple(each for each in archive.generations if each.user_message_id in ids)
    return replace(archive, messages=tuple(path), generations=generations)


def _heading(archive: SessionArchive, path: Sequence[Message], width: int) -> Iterator[str]:
    session = archive.session
    yield from (styled(line, BOLD) for line in wrapped(one_line(session.name), width))
    questions = sum(message.role == "user" for message in path)
    elsewhere = sum(message.role == "user" for message in archive.messages) - questions
    facts = [
        counted(questions, "turn") + (f" (and {elsewhere} in other branches)" if elsewhere else ""),
        f"last used {local_time(session.last_used)}",
        f"begun {local_time(session.created)}",
        f"seed {session.seed}",
        *(["archived"] if session.archived else []),
        *(f"checkpoint {PurePath(each.path).name}" for each in archive.checkpoints),
        f"digest {archive.digest[:16]}",
    ]
    yield from (styled(line, DIM) for line in packed(map(one_line, facts), width))


def _transcript(path: Sequence[Message], width: int) -> Iterator[str]:
    """Yield the path as the chat shows it, with a blank line before each message."""
    for message in path:
        yield ""
        text = harmless(message.content).expandtabs(4)
        match message.role:
            case "user":
                for number, line in enumerate(wrapped(text, width - 2)):
                    yield styled(("  " if number else "> ") + line, ASKED)
            case "system":
                yield from (styled(line, DIM) for line in wrapped(f"(system) {text}", width))
            case "assistant":
                stopped = " (stopped)" if message.status == "cancelled" else ""
                yield from wrapped(text + stopped, width)
