"""The transcript form of a conversation: `role: content` lines, and the reply read back out of one.

Tags are plain text here, so content is made unable to forge one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

Message = Mapping[str, str]  # {"role": "system" | "user" | "assistant", "content": text}

ROLES = ("system", "user", "assistant")
STOP_TAGS = tuple(f"\n{role}: " for role in ROLES)
REPLY_TAG = "assistant: "

_FORGED_TAG = re.compile(rf"\n(?=(?:{'|'.join(ROLES)}): )")
_REPLY_AT_LINE_START = re.compile(rf"^{REPLY_TAG}", re.MULTILINE)
_REPLY_ANYWHERE = re.compile(REPLY_TAG)
_NEXT_TAG = re.compile("|".join(map(re.escape, STOP_TAGS)))


def checked(messages: Sequence[Message]) -> list[tuple[str, str]]:
    """(role, content) of each message. An unknown role, or content that is not a text: `ValueError`."""
    turns: list[tuple[str, str]] = []
    for index, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise ValueError(f"message {index} has the role {role!r}; expected one of {', '.join(ROLES)}")
        if not isinstance(content, str):
            raise ValueError(f"message {index} ({role}) has the content {content!r}; expected a text")  # noqa: TRY004  # bad arguments are ValueErrors here
        turns.append((role, content))
    return turns


def without_open_reply(turns: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Drop a last empty assistant message: it stands for the reply that is about to be generated."""
    return turns[:-1] if turns and turns[-1] == ("assistant", "") else turns


def format_turn(role: str, content: str) -> str:
    """One turn of the transcript with its newline. A content line that would open with a tag gets a space."""
    return f"{role}: {_FORGED_TAG.sub(chr(10) + ' ', content)}\n"


def format_chat(messages: Sequence[Message]) -> str:
    """Transcript of the messages, ending with `assistant: ` where the reply begins.

    A last empty assistant message is that prompt itself. Unknown role: `ValueError`.
    """
    turns = without_open_reply(checked(messages))
    return "".join(format_turn(role, content) for role, content in turns) + REPLY_TAG


def extract_assistant_reply(generated_text: str) -> str:
    """Last non-empty text after an `assistant: ` tag, up to the next tag line, stripped; "" if all are empty.

    Tags open a line; only a text without such a line is searched for `assistant: ` anywhere. No tag at all:
    `ValueError`.
    """
    tags = list(_REPLY_AT_LINE_START.finditer(generated_text))
    tags = tags or list(_REPLY_ANYWHERE.finditer(generated_text))
    if not tags:
        raise ValueError(f"no {REPLY_TAG!r} in {generated_text[-80:]!r}; expected the transcript of a chat")
    for tag in reversed(tags):
        following = _NEXT_TAG.search(generated_text, tag.end())
        reply = generated_text[tag.end() : following.start() if following else None].strip()
        if reply:
            return reply
    return ""
