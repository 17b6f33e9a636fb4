"""Draw a session's messages as a tree, one numbered line per message."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from niels_gpt.terminal.table import cut, one_line
from niels_gpt.text.attachments import folded

if TYPE_CHECKING:
    from sessions import Message

_ON_PATH, _ASIDE = "\N{BLACK CIRCLE}", "\N{WHITE CIRCLE}"
_LEAST_TEXT = 26  # minimum columns for a message with its marks, however deep its branch
_WORDS: Mapping[str, str] = {"user": "> ", "assistant": "", "system": "(system) "}


def tree_lines(
    messages: Sequence[Message], on_path: Collection[int], head: int | None, width: int
) -> Iterator[str]:
    """Yield the lines; a single reply continues below its message, several replies branch out.

    Args:
        messages: Every message of the tree, parents before their replies.
        on_path: The ids of the messages to mark.
        head: The id of the message that the session continues from.
        width: How many columns a line may take.
    """
    children: dict[int | None, list[Message]] = {}
    for message in messages:
        children.setdefault(message.parent_id, []).append(message)
    # Each entry holds the prefix of its own line and of the lines below it.
    waiting = _branches("", children.get(None, []))
    while waiting:
        message, before, below = waiting.pop()
        mark = _ON_PATH if message.id in on_path else _ASIDE
        yield _node(message, mark, before, width, head=head)
        following = children.get(message.id, [])
        if len(following) == 1:
            waiting.append((following[0], below, below))
        else:
            waiting += _branches(below, following)


def _branches(below: str, messages: Sequence[Message]) -> list[tuple[Message, str, str]]:
    if len(messages) == 1:
        return [(messages[0], below, below)]
    last = len(messages) - 1
    return [
        (message, below + ("└ " if number == last else "├ "), below + ("  " if number == last else "│ "))
        for number, message in enumerate(messages)
    ][::-1]


def _node(message: Message, mark: str, before: str, width: int, *, head: int | None) -> str:
    # Deeper levels cut the outer branches, whose lines are far above.
    room = max(width - _LEAST_TEXT, 2)
    before = before if len(before) <= room else "…" + before[-(room - 1) :]
    words = _WORDS[message.role] + one_line(folded(message.content))
    end = "  (stopped)" if message.status == "cancelled" else ""
    end += f"  [{message.id}, head]" if message.id == head else f"  [{message.id}]"
    return f"{before}{mark} {cut(words, max(width - len(before) - 2 - len(end), 4))}{end}"
