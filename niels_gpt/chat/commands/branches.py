"""The commands that take a conversation another way, and the one that says why a reply is what it is.

Rows of the registry in commands.py. branching.py and replay/ do the work.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from niels_gpt.chat.commands.base import ChatActions, Command, takes_nothing

if TYPE_CHECKING:
    from niels_gpt.conversation.branching import Variant

_FORK_AT = re.compile(
    r"@(?P<kept>\d+)(?:\s+(?!--)(?P<name>.+?))?(?:\s+--seed\s+(?P<seed>\S+)|\s+--token\s(?P<token>.+))?",
    re.DOTALL,
)
_FORK_FORMS = "a name, or @K [NAME] [--seed S | --token TEXT] to keep the last reply's first K tokens"
_SHOWN = 60


async def _fork(desk: ChatActions, text: str) -> None:
    from niels_gpt.conversation import branching  # noqa: PLC0415 - it needs the store

    record = await desk.record()
    if not text:
        desk.say(f"/fork {record.name or '(no name yet)'} ({_FORK_FORMS})")
    elif not text.startswith("@"):
        await branching.fork(record, text)
        desk.say(f"/fork {record.name}")
    else:
        await _fork_at(desk, text)


async def _fork_at(desk: ChatActions, text: str) -> None:
    from niels_gpt.conversation import branching  # noqa: PLC0415
    from niels_gpt.conversation.settings import SETTINGS  # noqa: PLC0415

    form = _FORK_AT.fullmatch(text)
    if form is None:
        desk.error(f"/fork {text!r} is not allowed: {_FORK_FORMS}")
        return
    seed: int | None = None
    if form["seed"] is not None:
        try:
            seed = int(SETTINGS["seed"].read(form["seed"]) or 0)
        except ValueError as error:
            desk.error(f"/fork --seed {error}")
            return
    await desk.answer(
        lambda conversation, listener: branching.fork_at(
            conversation,
            int(form["kept"]),
            listener,
            name=form["name"],
            seed=seed,
            token=None if form["token"] is None else _unquoted(form["token"]),
        )
    )
    desk.say(f"/fork {(await desk.record()).name}")


def _unquoted(text: str) -> str:
    """Return a text without the quotes that keep blanks at its ends."""
    return text[1:-1] if len(text) > 2 and text[0] == text[-1] == '"' else text


async def _retry(desk: ChatActions, text: str) -> None:
    from niels_gpt.conversation import branching  # noqa: PLC0415

    if takes_nothing("/retry", desk, text):
        await desk.answer(branching.retry)


async def _edit(desk: ChatActions, text: str) -> None:
    from niels_gpt.conversation import branching  # noqa: PLC0415

    if text:
        await desk.answer(lambda conversation, listener: branching.edit(conversation, text, listener))
    else:
        desk.say(f"/edit {branching.last_question(await desk.record()).content}")


async def _undo(desk: ChatActions, text: str) -> None:
    from niels_gpt.conversation import branching  # noqa: PLC0415

    if takes_nothing("/undo", desk, text):
        undone = await branching.undo(await desk.record())
        desk.say(f"back to before {_short(undone.content)!r}; it stays in the store")


async def _alt(desk: ChatActions, text: str) -> None:
    from niels_gpt.conversation import branching  # noqa: PLC0415

    record = await desk.record()
    if text.isdecimal():
        chosen = await branching.choose(record, int(text))
        desk.say(f"> {chosen.user.content}\n{chosen.reply.content}")
    elif text:
        desk.error(f"/alt {text!r} is not allowed: the number of an alternative; /alt alone lists them")
    else:
        found = await branching.variants(record)
        desk.say("\n".join(_variant(number, each, found) for number, each in enumerate(found, start=1)))


def _variant(number: int, each: Variant, found: list[Variant]) -> str:
    edited = len({other.user.id for other in found}) > 1
    asked = f"> {_short(each.user.content)}: " if edited else ""
    stopped = " (stopped)" if each.reply.status == "cancelled" else ""
    return f"{'*' if each.current else ' '} {number}  {asked}{_short(each.reply.content)}{stopped}"


def _short(text: str) -> str:
    from niels_gpt.terminal.table import cut, one_line  # noqa: PLC0415 - it measures columns

    return cut(one_line(text), _SHOWN)


async def _why(desk: ChatActions, text: str) -> None:
    from niels_gpt.replay.explain import explain_last, step_lines  # noqa: PLC0415

    if text and not text.isdecimal():
        desk.error(f"/why {text!r} is not allowed: the number of a token, from 0; /why alone shows them all")
        return
    explained = await explain_last(await desk.conversation())
    desk.say("\n".join(step_lines(explained, int(text) if text else None)))


BRANCH_COMMANDS: tuple[Command, ...] = (
    Command(name="/retry", value="", help="another reply; the old one is kept", run=_retry),
    Command(
        name="/alt",
        value="N",
        help="go on from another version of the last turn",
        allowed="a number",
        run=_alt,
    ),
    Command(name="/undo", value="", help="back to before the last message", run=_undo),
    Command(name="/edit", value="TEXT", help="ask something else instead", allowed="any text", run=_edit),
    Command(
        name="/fork",
        value="NAME|@K",
        help="go on in a new session, from here or from a token",
        allowed=_FORK_FORMS,
        run=_fork,
    ),
    Command(
        name="/why",
        value="K",
        help="what else the reply could have said",
        allowed="a token, from 0",
        run=_why,
    ),
)
