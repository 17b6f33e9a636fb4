"""The commands that change how the model answers and how the chat looks: one for each row of a table."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from niels_gpt.chat.commands.base import Command
from niels_gpt.cli.personas import persona_names, personas_folder, read_persona
from niels_gpt.cli.preferences import DEFAULTS, PREFERENCES
from niels_gpt.conversation.settings import SETTINGS, Setting, Settings, Value, show

if TYPE_CHECKING:
    from niels_gpt.chat.controller import Controller
    from sessions import Store


async def _setting(setting: Setting, chat: Controller, text: str) -> None:
    session = await chat.open_session()
    now: Value = getattr(session.settings, setting.key)
    if not text:
        chat.say(f"{setting.key}: {described(setting.key, now)} ({setting.allowed})")
        return
    try:
        value = setting.read(text)
    except ValueError as error:
        chat.error(f"{setting.command}: {error} (it stays {show(now)})")
        return
    await session.change(setting.key, value)
    chat.say(_changed(setting, value, now))


async def _preference(preference: Setting, chat: Controller, text: str) -> None:
    now = chat.preference(preference.key)
    if not text:
        chat.say(f"{preference.key}: {show(now)} ({preference.allowed})")
        return
    try:
        value = preference.read(text)
    except ValueError as error:
        chat.error(f"{preference.command}: {error} (it stays {show(now)})")
        return
    chat.prefer(preference.key, value)
    chat.say(_changed(preference, value, now))


async def _system(chat: Controller, text: str) -> None:
    session = await chat.open_session()
    if text:
        await session.set_system(text)
        chat.say("the system prompt is set, from the next message on")
    else:
        chat.say(session.system or "there is no system prompt")


async def _persona(chat: Controller, text: str) -> None:
    if not text:
        found = persona_names()
        chat.say(
            f"personas: {', '.join(found)}"
            if found
            else f"no personas yet: put NAME.toml into {personas_folder()}"
        )
        return
    persona, session = read_persona(text), await chat.open_session()
    if persona.system is not None:
        await session.set_system(persona.system)
    for key, value in persona.settings.items():
        now: Value = getattr(session.settings, key)
        await session.change(key, value)
        chat.say(_changed(SETTINGS[key], value, now))
    chat.say(f"persona {text!r}, from the next message on")


def _names(store: Store | None, prefix: str) -> Iterable[str]:
    del store
    return (name for name in persona_names() if name.startswith(prefix))


def described(key: str, value: Value) -> str:
    """Return a value as a user would type it, with what it means where that is not plain."""
    return show(value) + (" (greedy)" if key == "temperature" and value == 0 else "")


def _changed(setting: Setting, value: Value, before: Value) -> str:
    was = "as before" if value == before else f"was {show(before)}"
    return f"{setting.key}: {described(setting.key, value)}, {was}"


def _of_setting(setting: Setting) -> Command:
    return Command(
        name=setting.command,
        group="settings",
        aliases=setting.aliases,
        value=setting.placeholder,
        help=f"{setting.meaning} ({show(getattr(Settings(), setting.key))})",
        allowed=setting.allowed,
        examples=setting.examples,
        run=partial(_setting, setting),
    )


def _of_preference(preference: Setting) -> Command:
    return Command(
        name=preference.command,
        group="screen",
        value=preference.placeholder,
        help=f"{preference.meaning} ({show(DEFAULTS[preference.key])})",
        allowed=preference.allowed,
        examples=preference.examples,
        run=partial(_preference, preference),
    )


SETTING_COMMANDS: tuple[Command, ...] = (
    *map(_of_setting, SETTINGS.values()),
    Command(
        name="/system",
        value="TEXT",
        help="the system prompt",
        group="model",
        allowed="any text",
        run=_system,
    ),
    Command(
        name="/persona",
        value="NAME",
        help="a system prompt and settings by name",
        group="model",
        allowed="the name of a file in the folder personas",
        complete=_names,
        run=_persona,
    ),
)
PREFERENCE_COMMANDS: tuple[Command, ...] = tuple(
    _of_preference(row) for row in PREFERENCES.values() if row.command
)
