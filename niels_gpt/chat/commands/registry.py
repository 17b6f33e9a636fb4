"""The commands of the chat: one registry that drives parsing, help, completion and validation.

A line that begins with a slash is a command and never reaches the model; two slashes send the line with
one. Commands act on a Controller.
"""

from __future__ import annotations

import difflib
import textwrap
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from niels_gpt.chat.commands.base import GROUPS, Command, takes_nothing
from niels_gpt.chat.commands.branches import BRANCH_COMMANDS
from niels_gpt.chat.commands.sessions import SESSION_COMMANDS
from niels_gpt.chat.commands.settings import PREFERENCE_COMMANDS, SETTING_COMMANDS

if TYPE_CHECKING:
    from niels_gpt.chat.controller import Controller


async def _reset(chat: Controller, text: str) -> None:
    if takes_nothing("/reset", chat, text):
        await (await chat.open_session()).reset()
        chat.say(
            "a new conversation in the same session, with its system prompt and settings; /redo brings the "
            "old one back"
        )


async def _history(chat: Controller, text: str) -> None:
    if not takes_nothing("/history", chat, text):
        return
    messages = (await chat.open_session()).messages
    if messages:
        chat.show_path(messages)
    else:
        chat.say("no messages yet")


async def _help(chat: Controller, text: str) -> None:
    name = "/" + text.removeprefix("/")
    if not text:
        chat.say(help_text(chat.columns()))
    elif text in GROUPS:
        chat.say("\n".join(_rows(text, chat.columns())))
    elif (command := command_named(name)) is not None:
        chat.say(f"{command.name} {command.value}".strip() + f": {command.help}")
        if command.allowed:
            chat.say(f"{command.value} is {command.allowed}")
        if command.aliases:
            chat.say(f"also {', '.join(command.aliases)}")
    else:
        chat.error(_unknown(name).advice)


async def _leave(name: str, chat: Controller, text: str) -> None:
    if takes_nothing(name, chat, text):
        chat.leave()


COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        *SETTING_COMMANDS,
        Command(
            name="/reset",
            value="",
            help="start a new conversation (the old one stays stored)",
            group="conversation",
            run=_reset,
        ),
        Command(
            name="/history",
            value="",
            help="show the conversation",
            group="conversation",
            run=_history,
        ),
        *BRANCH_COMMANDS,
        *SESSION_COMMANDS,
        *PREFERENCE_COMMANDS,
        Command(
            name="/help",
            value="NAME",
            help="show this, what one command does, or all of one group",
            group="screen",
            allowed=f"the name of a command, or one of {', '.join(GROUPS)}",
            run=_help,
        ),
        Command(
            name="/quit",
            value="",
            help="leave; so do exit, quit and Ctrl-D",
            group="screen",
            run=partial(_leave, "/quit"),
        ),
        Command(
            name="/exit",
            value="",
            help="the same as /quit",
            group="screen",
            run=partial(_leave, "/exit"),
        ),
    )
}

_ALIASES: dict[str, Command] = {alias: command for command in COMMANDS.values() for alias in command.aliases}
_SHORTEST = 2  # a slash and one letter: too short to mean one command for sure

BARE_WORDS: dict[str, str] = {"help": "/help", "quit": "/quit", "exit": "/exit"}
"""Whole lines that mean a command without its slash."""

KNOWN_ELSEWHERE: dict[str, str] = {
    "/?": "/help", "/h": "/help",
    "/bye": "/quit", "/q": "/quit",
    "/clear": "/reset", "/new": "/reset",
    "/regen": "/retry", "/regenerate": "/retry",
    "/list": "/sessions", "/ls": "/sessions", "/load": "/resume", "/open": "/resume",
    "/branch": "/fork", "/back": "/undo", "/info": "/stats", "/file": "/read", "/role": "/persona",
}  # fmt: skip
"""Names that people know from other programs: each means the command that does the same here."""

_ADVICE: dict[str, str] = {
    "/save": "everything is saved as it is said; /export FILE writes a copy",
    "/set": "each setting is a command, such as /temperature 0.5",
}
_KEYS = """\
Enter sends; Alt-Enter starts a new line, Ctrl-X Ctrl-E opens an editor. Up and
Ctrl-R find what was typed before, Tab completes. Ctrl-C or Esc stops a reply
and keeps what was said, Ctrl-D leaves. //x sends the message /x."""
_WIDE = 80


def help_text(columns: int = _WIDE) -> str:
    """Return the help: the first group line by line, the names in the others, the keys."""
    first, *others = GROUPS
    lines = _rows(first, columns)
    for group in others:
        names = " ".join(command.name for command in _of(group))
        lines += textwrap.wrap(f"{group}: {names}", max(columns - 1, 20), subsequent_indent="  ")
    return "\n".join([*lines, f"/help NAME explains one; /help {others[0]} and so on, a group.", _KEYS])


def _of(group: str) -> list[Command]:
    return [command for command in COMMANDS.values() if command.group == group]


def _rows(group: str, columns: int) -> list[str]:
    rows = [(f"{command.name} {command.value}".strip(), command.help) for command in _of(group)]
    width = max(len(left) for left, _ in rows)
    if columns < _WIDE:
        return [f"{left}\n  {right}" for left, right in rows]
    return [f"{left:<{width}}  {right}" for left, right in rows]


@dataclass(frozen=True, kw_only=True)
class Say:
    """A line for the model."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Call:
    """A command with its value, which may be empty."""

    command: Command
    value: str


@dataclass(frozen=True, kw_only=True)
class Unknown:
    """A line that begins with a slash and names no command; `advice` is the message about it."""

    name: str
    advice: str


def parse(line: str) -> Say | Call | Unknown | None:
    """Return what a line means; None for a blank one."""
    text = line.strip()
    if not text:
        return None
    if text in BARE_WORDS:
        return Call(command=COMMANDS[BARE_WORDS[text]], value="")
    if not text.startswith("/"):
        return Say(text=text)
    if text.startswith("//"):
        return Say(text=text[1:])
    name, *rest = text.split(maxsplit=1)
    command = command_named(name)
    if name == "/set" and rest:
        # As other programs have it: /set temperature 0.5, /set parameter temperature 0.5.
        key, *value = rest[0].removeprefix("parameter ").split(maxsplit=1)
        setting = command_named(f"/{key}")
        if setting is not None and setting.group in {"settings", "screen"} and value:
            return Call(command=setting, value=value[0])
    return _unknown(name) if command is None else Call(command=command, value="".join(rest))


def command_named(name: str) -> Command | None:
    """Return the command that a name means: its own, an alias, one of other programs, or a clear prefix."""
    known = COMMANDS.get(name) or _ALIASES.get(name) or COMMANDS.get(KNOWN_ELSEWHERE.get(name, ""))
    if known is not None or name in _ADVICE:
        return known
    begun = _begun(name)
    return begun[0] if len(begun) == 1 else None


def _begun(name: str) -> list[Command]:
    return [each for each in COMMANDS.values() if len(name) > _SHORTEST and each.name.startswith(name)]


def _unknown(name: str) -> Unknown:
    begun = [each.name for each in _begun(name)]
    near = difflib.get_close_matches(name, [*COMMANDS, *_ALIASES], n=1, cutoff=0.7)
    advice = "/help lists the commands"
    if begun:
        advice = f"it may mean {', '.join(begun[:-1])} or {begun[-1]}"
    elif near:
        advice = f"did you mean {near[0]}?"
    advice = _ADVICE.get(name, advice)
    return Unknown(
        name=name, advice=f"unknown command {name}: {advice} (start with // to send it as a message)"
    )
