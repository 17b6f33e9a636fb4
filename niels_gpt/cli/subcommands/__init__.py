"""`niels-chat NAME ...`: what can be done to stored sessions without talking, one module a command.

A module has `add_arguments(parser)` and `run(flags) -> int`, is imported only when its command is called, and
raises ChatError for what goes wrong. Standard output carries the result alone. Importing this package
imports nothing heavy; it knows no command but by name.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import itertools
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from niels_gpt.cli.exit_codes import USAGE, run_to_status
from niels_gpt.cli.parser import OneLineParser
from niels_gpt.conversation.errors import ChatError

_ALMOST, _MOST_WORDS = 0.75, 2  # how like a name a first word must be, in a line of how many words


@dataclass(frozen=True, kw_only=True)
class Subcommand:
    """One row of the table below; `module` is the dotted name of what is imported when it is called."""

    name: str
    summary: str
    module: str


SUBCOMMANDS: dict[str, Subcommand] = {
    command.name: command
    for command in (
        Subcommand(name="sessions", summary="list the sessions", module=f"{__name__}.sessions"),
        Subcommand(name="show", summary="print a session, or all of its branches", module=f"{__name__}.show"),
        Subcommand(
            name="last", summary="print the last reply, or its first code block", module=f"{__name__}.last"
        ),
        Subcommand(name="search", summary="find messages by their words", module=f"{__name__}.search"),
        Subcommand(name="rename", summary="give a session another name", module=f"{__name__}.rename"),
        Subcommand(
            name="delete",
            summary="archive a session; delete an archived one permanently",
            module=f"{__name__}.delete",
        ),
        Subcommand(name="restore", summary="take a session out of the archive", module=f"{__name__}.restore"),
        Subcommand(
            name="export",
            summary="write sessions to a file, for this or another program",
            module=f"{__name__}.export",
        ),
        Subcommand(
            name="import",
            summary="store the sessions of a file of this or another program",
            module=f"{__name__}.import_file",
        ),
        Subcommand(
            name="replay",
            summary="regenerate every reply and compare it with the stored one",
            module=f"{__name__}.replay",
        ),
        Subcommand(
            name="audit",
            summary="regenerate the replies of an exported archive and write a verdict on each",
            module=f"{__name__}.audit",
        ),
        Subcommand(
            name="verify",
            summary="print the digest of a session, and what was changed in it",
            module=f"{__name__}.verify",
        ),
        Subcommand(
            name="why",
            summary="show the alternatives to each token of a reply, in numbers or as a picture",
            module=f"{__name__}.why",
        ),
        Subcommand(
            name="models",
            summary="list the models on this machine, or fetch one",
            module=f"{__name__}.models",
        ),
        Subcommand(name="backup", summary="copy the store to a new file", module=f"{__name__}.backup"),
        Subcommand(
            name="doctor",
            summary="check the store for damage, and say what to do",
            module=f"{__name__}.doctor",
        ),
        Subcommand(
            name="config",
            summary="show every configurable value, and where it comes from",
            module=f"{__name__}.config",
        ),
        Subcommand(
            name="completion",
            summary="print the script with which a shell completes niels-chat",
            module=f"{__name__}.completion",
        ),
    )
}


class UnknownSubcommand(ChatError):  # noqa: N818 - named for what happened, as everywhere in this project
    """The first word is almost the name of a subcommand."""

    exit_status = USAGE

    def __init__(self, words: Sequence[str], near: str) -> None:
        text = shlex.quote(" ".join(words))
        super().__init__(
            f"unknown command {words[0]!r}: did you mean {near!r}? (to ask the model: niels-chat -p {text})"
        )


def listing() -> str:
    """Return the lines of `niels-chat --help` about subcommands."""
    width = max(map(len, SUBCOMMANDS))
    rows = (f"  {command.name:<{width}}  {command.summary}" for command in SUBCOMMANDS.values())
    return "\n".join(["commands (niels-chat COMMAND --help says more):", *rows])


def is_subcommand(argv: Sequence[str]) -> bool:
    """Return whether a command line calls a subcommand: its first word is the name of one."""
    return bool(argv) and argv[0] in SUBCOMMANDS


def check_first_word(argv: Sequence[str]) -> None:
    """Raise UnknownSubcommand for what looks like a mistyped subcommand rather than a question.

    That is one word, or two, of which the first is almost a name.
    """
    words = list(itertools.takewhile(lambda word: not word.startswith("-"), argv))
    if 0 < len(words) <= _MOST_WORDS:
        near = difflib.get_close_matches(words[0], SUBCOMMANDS, n=1, cutoff=_ALMOST)
        if near:
            raise UnknownSubcommand(words, near[0])


def run_subcommand(argv: Sequence[str]) -> int:
    """Run the subcommand that `argv[0]` names and return its exit status.

    What goes wrong in the command has become a line and a status.
    """
    name, *rest = argv
    command = SUBCOMMANDS[name]
    module = importlib.import_module(command.module)
    program = f"niels-chat {name}"
    parser = OneLineParser(
        prog=program,
        description=f"{command.summary.capitalize()}.",
        allow_abbrev=False,
        advice=f"to ask the model: niels-chat -p {shlex.quote(' '.join(argv))}",
    )
    add_arguments = cast("Callable[[argparse.ArgumentParser], None]", module.add_arguments)
    run = cast("Callable[[argparse.Namespace], int]", module.run)
    add_arguments(parser)
    return run_to_status(program, lambda: run(parser.parse_args(rest)))
