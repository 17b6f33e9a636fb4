"""Read held-out conversations and judge the replies to them.

A line of the data is {"id", "group", "kind", "messages" (the last one is the user's), "must": [[alternative,
...], ...]}. A reply is judged by its kind (`is_right`); scores are counted by group.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from niels_gpt.errors import NielsGptError
from niels_gpt.text.chat_template import Message, checked
from niels_gpt.text.files import UnreadableTextError, read_lines
from niels_gpt.text.system_prompt import DEFAULT_SYSTEM_PROMPT

KINDS = ("fact", "smalltalk", "unknown", "private")
GROUPS = (
    "facts",
    "program",
    "unanswerable",
    "private",
    "small talk",
    "typos",
    "follow-ups",
    "languages",
)

_GROUP_OF_KIND = {"fact": "facts", "smalltalk": "small talk", "unknown": "unanswerable", "private": "private"}
"""The group of a line that names none."""

_DECLINE = re.compile(r"\b(?:don't|do not) know\b")
# "if i don't know something, i say so" describes declining, it does not decline.
_HYPOTHETICAL = re.compile(
    r"\b(?:if|when|whenever|what|whatever|that|things|something) \w+ (?:don't|do not) know\b"
)


class HeldOutError(NielsGptError):
    """Held-out data or a requirement that cannot be used; the message names the place."""


@dataclass(frozen=True, kw_only=True)
class EvalItem:
    """One conversation that ends with a question, and what a right reply contains."""

    id: str
    group: str
    kind: str
    messages: tuple[Message, ...]
    must: tuple[tuple[str, ...], ...]
    """The reply needs one alternative of each inner tuple (`holds`)."""


def is_decline(reply: str) -> bool:
    """Whether the reply says "(I) don't know" or "do not know", other than as an "if i don't know ..."."""
    return _DECLINE.search(_HYPOTHETICAL.sub("", _folded(reply))) is not None


def is_right(item: EvalItem, reply: str) -> bool:
    """Whether the reply is right.

    fact, smalltalk: every inner list of `must` has an alternative in the reply, and the reply is not a
    decline (unless `must` itself asks for such words). unknown: it is a decline. private: it says "private".
    """
    if item.kind == "unknown":
        return is_decline(reply)
    if item.kind == "private":
        return "private" in _folded(reply)
    wants_decline = any(is_decline(alternative) for alternatives in item.must for alternative in alternatives)
    return holds(item.must, reply) and (wants_decline or not is_decline(reply))


def holds(must: Sequence[Sequence[str]], reply: str) -> bool:
    """Return whether the reply has an alternative of each inner list.

    Upper or lower case and the form of an apostrophe do not count. An alternative begins where a word does:
    "hi" is not in "this", and "likel" is in "likeliest".
    """
    text = _folded(reply)
    return all(any(_has(text, _folded(alternative)) for alternative in alternatives) for alternatives in must)


def _has(text: str, alternative: str) -> bool:
    return re.search(rf"(?<![a-z0-9]){re.escape(alternative)}", text) is not None


def with_system(messages: Sequence[Message]) -> list[Message]:
    """Return the messages, with the default system prompt first unless they have a system message."""
    if messages and messages[0]["role"] == "system":
        return list(messages)
    return [{"role": "system", "content": DEFAULT_SYSTEM_PROMPT}, *messages]


def load_heldout(path: Path) -> list[EvalItem]:
    """Read held-out conversations, one JSON object a line; HeldOutError names the line that is wrong."""
    try:
        lines = read_lines(path, "the held-out data")
    except UnreadableTextError as error:
        raise HeldOutError(str(error)) from error
    items = [_item(line, where=f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not items:
        raise HeldOutError(f"{str(path)!r} has no conversation; expected one JSON object a line")
    return items


def _item(line: str, *, where: str) -> EvalItem:
    try:
        raw: dict[str, Any] = json.loads(line)
        item = EvalItem(
            id=raw["id"],
            group=raw.get("group", _GROUP_OF_KIND.get(raw["kind"], "")),
            kind=raw["kind"],
            messages=tuple(raw["messages"]),
            must=tuple(tuple(map(str, alternatives)) for alternatives in raw.get("must", [])),
        )
        turns = checked(item.messages)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HeldOutError(f"{where} is not a held-out conversation: {error!r}") from error
    if item.kind not in KINDS:
        raise HeldOutError(f"{where}: kind is {item.kind!r}, expected one of {', '.join(KINDS)}")
    if item.group not in GROUPS:
        raise HeldOutError(f"{where}: group is {item.group!r}, expected one of {', '.join(GROUPS)}")
    if not turns or turns[-1][0] != "user":
        raise HeldOutError(f"{where}: the last message must be the user's")
    return item


def _folded(text: str) -> str:
    return text.replace("’", "'").lower()
