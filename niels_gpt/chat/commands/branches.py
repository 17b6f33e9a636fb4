"""The commands that take a conversation another way, and /why, which explains a reply."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from niels_gpt.chat.commands.base import Command, of_store, takes_nothing, whole_number
from niels_gpt.conversation.errors import SessionTrouble

if TYPE_CHECKING:
    from niels_gpt.chat.controller import Controller
    from niels_gpt.conversation.branching import Variant

_FORK_AT = re.compile(
    r"@(?P<kept>\d{1,18})(?:\s+(?!--)(?P<name>.+?))?(?:\s+--seed\s+(?P<seed>\S+)|\s+--token\s(?P<token>.+))?",
    re.DOTALL,
)
_FORK_FORMS = "a name, or @K [NAME] [--seed S | --token TEXT] to keep the last reply's first K tokens"
_FORK_USAGE = "usage: /fork NAME, or /fork @K [NAME] [--seed S | --token TEXT]"
_LEAST_SHOWN = 20


async def _fork(chat: Controller, text: str) -> None:
    from niels_gpt.conversation import branching  # noqa: PLC0415 - it needs the store

    session = await chat.open_session()
    if not text:
        chat.say(_FORK_USAGE)
        return
    if text.startswith("@"):
        await _fork_at(chat, text)
    else:
        await branching.fork(session, text)
    chat.say(f"forked to {session.name!r}; you are in it now")


async def _fork_at(chat: Controller, text: str) -> None:
    from niels_gpt.conversation import branching  # noqa: PLC0415
    from niels_gpt.conversation.settings import SETTINGS  # noqa: PLC0415

    form = _FORK_AT.fullmatch(text)
    if form is None:
        raise SessionTrouble(f"/fork cannot read {text!r}; {_FORK_USAGE}")
    seed: int | None = None
    if form["seed"] is not None:
        try:
            seed = int(SETTINGS["seed"].read(form["seed"]) or 0)
        except ValueError as error:
            raise SessionTrouble(f"/fork --seed: {error}") from error
    await chat.answer(
        lambda conversation, listener: branching.fork_at(
            conversation,
            int(form["kept"]),
            listener,
            name=form["name"],
            seed=seed,
            token=None if form["token"] is None else _unquoted(form["token"]),
        )
    )


def _unquoted(text: str) -> str:
    """Return a text without the quotes that keep blanks at its ends."""
    return text[1:-1] if len(text) > 2 and text[0] == text[-1] == '"' else text


async def _retry(chat: Controller, text: str) -> None:
    from niels_gpt.conversation import branching  # noqa: PLC0415

    if not takes_nothing("/retry", chat, text):
        return
    result = await chat.answer(branching.retry)
    session = await chat.open_session()
    earlier = await branching.same_as(session, result.message) if result.stored else None
    if earlier is not None:
        greedy = session.settings.temperature == 0
        advice = "/temperature is 0, so it always is" if greedy else "a higher /temperature varies more"
        chat.say(f"(the same text as version {earlier}; {advice})")


async def _edit(chat: Controller, text: str) -> None:
    from niels_gpt.conversation import branching  # noqa: PLC0415

    if text:
        await chat.answer(lambda conversation, listener: branching.edit(conversation, text, listener))
    else:
        question = branching.last_question(await chat.open_session(), "edit")
        chat.say(f"your last message is {_short(question.content, chat)!r}; /edit TEXT asks TEXT instead")


async def _undo(chat: Controller, text: str) -> None:
    from niels_gpt.conversation import branching  # noqa: PLC0415

    if takes_nothing("/undo", chat, text):
        undone = await branching.undo(await chat.open_session())
        chat.say(f"back to before {_short(undone.content, chat)!r}; /redo brings it back")


async def _redo(chat: Controller, text: str) -> None:
    from niels_gpt.conversation import branching  # noqa: PLC0415

    if takes_nothing("/redo", chat, text):
        session = await chat.open_session()
        await branching.redo(session)
        chat.show_path(_last_turn(session.messages))


async def _goto(chat: Controller, text: str) -> None:
    from niels_gpt.conversation import branching  # noqa: PLC0415

    session = await chat.open_session()
    number = whole_number(text)
    if number is None:
        raise SessionTrouble("usage: /goto ID, the number of a message; /tree shows them")
    await branching.goto(session, number)
    chat.show_path(_last_turn(session.messages))


def _last_turn(messages: list) -> list:
    asked = [n for n, message in enumerate(messages) if message.role == "user"]
    return messages[asked[-1] :] if asked else messages[-1:]


async def _tree(chat: Controller, text: str) -> None:
    from niels_gpt.terminal.message_tree import tree_lines  # noqa: PLC0415

    if not takes_nothing("/tree", chat, text):
        return
    session, store = await chat.open_session(), await chat.store()
    if session.stored is None:
        raise SessionTrouble("no messages yet")
    archive = await of_store(store.export_session, session.stored.id)
    on_path = {message.id for message in session.messages}
    chat.say("\n".join(tree_lines(archive.messages, on_path, session.stored.head_id, chat.columns() - 1)))
    chat.say("/goto ID continues from the message with that number")


async def _alt(chat: Controller, text: str) -> None:
    from niels_gpt.conversation import branching  # noqa: PLC0415

    session = await chat.open_session()
    number = whole_number(text)
    if number is not None:
        chosen = await branching.choose(session, number)
        chat.show_path([chosen.user, chosen.reply])
    elif text:
        raise SessionTrouble(f"usage: /alt N, the number of a version, got {text!r}; /alt lists them")
    else:
        found = await branching.variants(session)
        if not found:
            raise SessionTrouble("no reply yet")
        chat.say("\n".join(_variant(chat, number, each, found) for number, each in enumerate(found, start=1)))


def _variant(chat: Controller, number: int, variant: Variant, found: list[Variant]) -> str:
    from niels_gpt.terminal.table import cut, one_line  # noqa: PLC0415 - it measures columns

    edited = len({other.user.id for other in found}) > 1
    asked = f"> {one_line(variant.user.content)}: " if edited else ""
    same = [n for n, other in enumerate(found[: number - 1], start=1) if _texts(other) == _texts(variant)]
    end = " (stopped)" if variant.reply.status == "cancelled" else ""
    end += f" (the same as {same[0]})" if same else ""
    begin = f"{'*' if variant.current else ' '} {number}  "
    room = max(_LEAST_SHOWN, chat.columns() - 1 - len(begin) - len(end))
    return begin + cut(f"{cut(asked, room // 2)}{one_line(variant.reply.content)}", room) + end


async def _diff(chat: Controller, text: str) -> None:
    from niels_gpt.conversation import branching  # noqa: PLC0415

    found = await branching.variants(await chat.open_session())
    if len(found) < 2:
        raise SessionTrouble("there is only one version of this turn to compare; /retry makes another")
    words = text.split()
    numbers = [whole_number(word) for word in words]
    known = [n for n in numbers if n is not None and 1 <= n <= len(found)]
    if len(words) > 2 or len(known) != len(words):
        raise SessionTrouble(f"usage: /diff [N [M]], versions from 1 to {len(found)}, got {text!r}")
    now = next((n for n, each in enumerate(found, start=1) if each.current), len(found))
    if len(known) < 2:
        before = known[0] if known else now - 1 or 2
        known = [before, now]
    old, new = (found[n - 1].reply.content for n in known)
    if old == new:
        chat.say(f"versions {known[0]} and {known[1]} have the same text")
        return
    chat.say(f"from version {known[0]} to version {known[1]}:")
    chat.say_difference(old, new)


async def _copy(chat: Controller, text: str) -> None:
    from niels_gpt.terminal.markdown import first_code_block  # noqa: PLC0415

    if text not in {"", "code"}:
        raise SessionTrouble(f"usage: /copy, or /copy code for the first code block, got {text!r}")
    replies = [each for each in (await chat.open_session()).messages if each.role == "assistant"]
    if not replies:
        raise SessionTrouble("no reply to copy yet")
    wanted = first_code_block(replies[-1].content) if text else replies[-1].content
    if wanted is None:
        raise SessionTrouble("the last reply has no code block; /copy copies all of it")
    way = chat.copy(wanted)
    chat.say(f"copied {len(wanted):,} characters {way}")


def _texts(variant: Variant) -> tuple[str, str]:
    return variant.user.content, variant.reply.content


def _short(text: str, chat: Controller) -> str:
    from niels_gpt.terminal.table import cut, one_line  # noqa: PLC0415

    return cut(one_line(text), max(_LEAST_SHOWN, chat.columns() - 40))


async def _why(chat: Controller, text: str) -> None:
    from niels_gpt.replay.explain import explain_last, step_lines  # noqa: PLC0415
    from niels_gpt.terminal.table import cut  # noqa: PLC0415

    number = whole_number(text)
    if text and number is None:
        raise SessionTrouble(
            f"usage: /why K, the number of a token from 0, got {text!r}; /why shows them all"
        )
    explained = await explain_last(await chat.conversation())
    # A line a token: broken at the edge, the runners-up would be hard to tell apart.
    chat.say("\n".join(cut(line, chat.columns() - 1) for line in step_lines(explained, number)))


BRANCH_COMMANDS: tuple[Command, ...] = (
    Command(
        name="/retry",
        value="",
        help="make another reply; the old one is kept",
        group="conversation",
        run=_retry,
    ),
    Command(
        name="/alt",
        value="N",
        help="continue from another version of the last turn",
        group="conversation",
        allowed="a number",
        run=_alt,
    ),
    Command(
        name="/diff",
        value="N M",
        help="show where two versions of the last reply differ",
        group="conversation",
        allowed="one or two numbers of /alt; without them the version before this one",
        run=_diff,
    ),
    Command(
        name="/undo", value="", help="go back to before the last message", group="conversation", run=_undo
    ),
    Command(
        name="/redo", value="", help="bring back what /undo or /reset left", group="conversation", run=_redo
    ),
    Command(
        name="/tree", value="", help="show every message with its number", group="conversation", run=_tree
    ),
    Command(
        name="/goto",
        value="ID",
        help="continue from any message of /tree",
        group="conversation",
        allowed="the number of a message",
        run=_goto,
    ),
    Command(
        name="/edit",
        value="TEXT",
        help="ask something else instead",
        group="conversation",
        allowed="any text",
        run=_edit,
    ),
    Command(
        name="/fork",
        value="NAME|@K",
        help="continue in a new session, from here or from a token",
        group="conversation",
        allowed=_FORK_FORMS,
        run=_fork,
    ),
    Command(
        name="/why",
        value="K",
        help="show what else the reply could have said",
        group="conversation",
        allowed="a token, from 0",
        run=_why,
    ),
    Command(
        name="/copy",
        value="code",
        help="copy the last reply, or its first code block",
        group="conversation",
        allowed="nothing, or the word code",
        examples=("code",),
        run=_copy,
    ),
)
