"""The commands of the chat: one registry that drives parsing, help, completion and validation.

A line that begins with a slash is a command and never reaches the model; two slashes send the line with
one. Commands act on a Controller.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from niels_gpt.chat.commands.base import Command, takes_nothing
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
    if not text:
        chat.say(help_text(chat.columns()))
        return
    name = "/" + text.removeprefix("/")
    command = COMMANDS.get(name)
    if command is None:
        chat.error(_unknown(name).advice)
        return
    chat.say(f"{name} {command.value}".strip() + f": {command.help}")
    if command.allowed:
        chat.say(f"{command.value} is {command.allowed}")


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
            run=_reset,
        ),
        Command(name="/history", value="", help="show the conversation", run=_history),
        *BRANCH_COMMANDS,
        *SESSION_COMMANDS,
        *PREFERENCE_COMMANDS,
        Command(
            name="/help",
            value="",
            help="show this, or what one command does; so does the word help",
            allowed="nothing, or the name of a command",
            run=_help,
        ),
        Command(
            name="/quit", value="", help="leave; so do exit, quit and ctrl-d", run=partial(_leave, "/quit")
        ),
        Command(name="/exit", value="", help="the same as /quit", run=partial(_leave, "/exit")),
    )
}

BARE_WORDS: dict[str, str] = {"help": "/help", "quit": "/quit", "exit": "/exit"}
"""Whole lines that mean a command without its slash."""

KNOWN_ELSEWHERE: dict[str, str] = {
    "/?": "/help", "/h": "/help",
    "/bye": "/quit", "/q": "/quit",
    "/clear": "/reset", "/new": "/reset",
    "/regen": "/retry", "/regenerate": "/retry",
    "/list": "/sessions", "/ls": "/sessions", "/load": "/resume", "/open": "/resume",
    "/temperature": "/temp", "/max_new_tokens": "/max_tokens", "/repetition_penalty": "/rep_penalty",
    "/branch": "/fork", "/back": "/undo", "/info": "/stats",
}  # fmt: skip
"""Names that people know from other programs; they are only suggested."""

_ADVICE: dict[str, str] = {
    "/save": "everything is saved as it is said; /export FILE writes a copy",
    "/delete": "niels-chat delete NAME deletes a session",
    "/set": "each setting is a command, such as /temp 0.5",
}


def help_text(columns: int = 80) -> str:
    """Return the help, one line a command; two where that would be wider than `columns`."""
    rows = [(f"{command.name} {command.value}".strip(), command.help) for command in COMMANDS.values()]
    rows.append(("//...", "send a line that begins with a slash"))
    width = max(len(left) for left, _ in rows)
    if columns < 80:
        lines = [f"{left}\n  {right}" for left, right in rows]
    else:
        lines = [f"{left:<{width}}  {right}" for left, right in rows]
    return "\n".join(
        [
            *lines,
            "A command without a value shows the present one. Ctrl-C or Esc stops a reply and",
            "keeps what was said. Alt-Enter starts a new line in a message.",
        ]
    )


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
    command = COMMANDS.get(name)
    return _unknown(name) if command is None else Call(command=command, value="".join(rest))


def _unknown(name: str) -> Unknown:
    begun = [each for each in COMMANDS if len(name) > 1 and each.startswith(name)]
    meant = KNOWN_ELSEWHERE.get(name) or (begun[0] if len(begun) == 1 else None)
    if meant is None:
        meant = next(iter(difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.7)), None)
    advice = _ADVICE.get(name, "/help lists the commands" if meant is None else f"did you mean {meant}?")
    return Unknown(
        name=name, advice=f"unknown command {name}: {advice} (start with // to send it as a message)"
    )
