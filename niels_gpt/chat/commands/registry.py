"""The commands of the chat: one registry that drives parsing, help, completion and validation.

A line that begins with a slash is a command and never reaches the model; two slashes send the line with
one. Handlers talk to a ChatActions.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import partial

from niels_gpt.chat.commands.base import ChatActions, Command, takes_nothing
from niels_gpt.chat.commands.branches import BRANCH_COMMANDS
from niels_gpt.chat.commands.sessions import SESSION_COMMANDS
from niels_gpt.cli.preferences import DEFAULTS, PREFERENCES
from niels_gpt.conversation.settings import SETTINGS, Setting, Settings, show


async def _setting(setting: Setting, desk: ChatActions, text: str) -> None:
    record = await desk.record()
    if text:
        try:
            value = setting.read(text)
        except ValueError as error:
            desk.error(f"{setting.command} {error} (it stays {show(getattr(record.settings, setting.key))})")
            return
        await record.change(setting.key, value)
        desk.say(f"{setting.command} {show(value)}")
    else:
        desk.say(f"{setting.command} {show(getattr(record.settings, setting.key))} ({setting.allowed})")


async def _preference(preference: Setting, desk: ChatActions, text: str) -> None:
    now = show(desk.preference(preference.key))
    if not text:
        desk.say(f"{preference.command} {now} ({preference.allowed})")
        return
    try:
        value = preference.read(text)
    except ValueError as error:
        desk.error(f"{preference.command} {error} (it stays {now})")
        return
    desk.prefer(preference.key, value)
    desk.say(f"{preference.command} {show(value)}")


async def _system(desk: ChatActions, text: str) -> None:
    record = await desk.record()
    if text:
        await record.set_system(text)
        desk.say("the system prompt is set")
    else:
        desk.say(record.system or "there is no system prompt")


async def _reset(desk: ChatActions, text: str) -> None:
    if takes_nothing("/reset", desk, text):
        await (await desk.record()).reset()
        desk.say("a new conversation; the system prompt and the settings stay")


async def _history(desk: ChatActions, text: str) -> None:
    if not takes_nothing("/history", desk, text):
        return
    messages = (await desk.record()).messages
    for message in messages:
        if message.role == "user":
            desk.say(f"> {message.content}")
        elif message.role == "system":
            desk.say(f"(system) {message.content}")
        else:
            desk.say(message.content + (" (stopped)" if message.status == "cancelled" else ""))
    if not messages:
        desk.say("nothing was said yet")


async def _help(desk: ChatActions, text: str) -> None:
    if takes_nothing("/help", desk, text):
        desk.say(help_text(desk.columns()))


async def _leave(name: str, desk: ChatActions, text: str) -> None:
    if takes_nothing(name, desk, text):
        desk.leave()


def _of_setting(setting: Setting) -> Command:
    return Command(
        name=setting.command,
        value=setting.placeholder,
        help=f"{setting.meaning} ({show(getattr(Settings(), setting.key))})",
        allowed=setting.allowed,
        examples=setting.examples,
        run=partial(_setting, setting),
    )


def _of_preference(preference: Setting) -> Command:
    return Command(
        name=preference.command,
        value=preference.placeholder,
        help=f"{preference.meaning} ({show(DEFAULTS[preference.key])})",
        allowed=preference.allowed,
        examples=preference.examples,
        run=partial(_preference, preference),
    )


COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        *map(_of_setting, SETTINGS.values()),
        Command(name="/system", value="TEXT", help="the system prompt", allowed="any text", run=_system),
        Command(name="/reset", value="", help="begin anew; what was said stays in the store", run=_reset),
        Command(name="/history", value="", help="show the conversation", run=_history),
        *BRANCH_COMMANDS,
        *SESSION_COMMANDS,
        *(_of_preference(row) for row in PREFERENCES.values() if row.command),
        Command(name="/help", value="", help="show this; so does the word help alone", run=_help),
        Command(
            name="/quit", value="", help="leave; so do exit, quit and ctrl-d", run=partial(_leave, "/quit")
        ),
        Command(name="/exit", value="", help="the same as /quit", run=partial(_leave, "/exit")),
    )
}

BARE_WORDS: dict[str, str] = {"help": "/help", "quit": "/quit", "exit": "/exit"}
"""Whole lines that mean a command without its slash."""


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
        [*lines, "A command alone shows its value. Ctrl-c stops a reply and keeps what was said."]
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
    """A line that begins with a slash and names no command; `advice` says what it may have meant."""

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
    if command is not None:
        return Call(command=command, value="".join(rest))
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    advice = f"did you mean {near[0]}?" if near else "/help lists the commands;"
    return Unknown(name=name, advice=f"{advice} //... sends a line that begins with a slash")
