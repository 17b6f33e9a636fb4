"""How a conversation becomes token ids, and where a reply ends. The tokenizer decides which of two ways.

Bytes have no control tokens: a conversation is a transcript of `role: content` lines, and a reply is ended by
the next tag. With control tokens, each turn is one role token, its text, and <|eot|>, which alone ends a
reply. In both, no text becomes a turn. Training and chat get their ids from the same code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from niels_gpt.errors import NielsGptError
from niels_gpt.text.tokenizer import Tokenizer

Message = Mapping[str, str]  # {"role": "system" | "user" | "assistant", "content": text}

ROLES = ("system", "user", "assistant")
STOP_TAGS = tuple(f"\n{role}: " for role in ROLES)
REPLY_TAG = "assistant: "
USER_TAG = "user: "
REMEMBERED_CHARACTERS = 2**22

_FORGED_TAG = re.compile(rf"\n(?=(?:{'|'.join(ROLES)}): )")
_REPLY_AT_LINE_START = re.compile(rf"^{REPLY_TAG}", re.MULTILINE)
_REPLY_ANYWHERE = re.compile(REPLY_TAG)
_NEXT_TAG = re.compile("|".join(map(re.escape, STOP_TAGS)))


class ChatTemplateError(NielsGptError):
    """A template that cannot be compiled, asks for what it may not, takes too long, or refuses a message."""


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


class Template(Protocol):
    """Turns into ids. `prompt_ids(m)` begins `training_ids(m + [reply])` for every reply."""

    name: str
    version: int  # raised when the same messages would give other ids: part of a model's fingerprint
    stop_ids: frozenset[int]  # a reply ends with one of these ids
    stop_sequences: tuple[bytes, ...]  # or before one of these
    banned_ids: frozenset[int]  # ids that no reply may hold

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Ids up to the place where the reply begins. Unknown role: `ValueError`."""
        ...

    def training_ids(self, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        """Ids of a whole dialogue and, for each, whether it is learned: replies and what ends them."""
        ...


class Encoder:
    """Encodes texts and remembers their ids: a conversation sends the same messages with every turn."""

    def __init__(self, encode: Callable[[str], list[int]]) -> None:
        """`encode` returns the ids of a text."""
        self._encode = encode
        self._ids: dict[str, list[int]] = {}
        self._characters = 0

    def __call__(self, text: str) -> list[int]:
        """Return the ids of a text, which must not be changed."""
        ids = self._ids.get(text)
        if ids is None:
            ids = self._encode(text)
            self._characters += len(text)
            if self._characters > REMEMBERED_CHARACTERS:
                self._ids, self._characters = {}, 0
            self._ids[text] = ids
        return ids


def _joined(parts: Iterable[tuple[list[int], bool]]) -> tuple[list[int], list[bool]]:
    ids: list[int] = []
    learned: list[bool] = []
    for part, is_learned in parts:
        ids += part
        learned += [is_learned] * len(part)
    return ids, learned


class TranscriptTemplate:
    """`role: content` lines. A reply ends with its newline and the next tag, where generation stops."""

    name = "transcript"
    version = 1

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._encode = Encoder(tokenizer.encode_ids)
        control = tokenizer.special_token_ids()  # bytes have none; a model of another project may
        self.stop_ids = frozenset({control["eot"]} if "eot" in control else ())
        self.stop_sequences = tuple(tag.encode() for tag in STOP_TAGS)
        self.banned_ids = frozenset(control.values()) - self.stop_ids

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Ids of `format_chat(messages)`."""
        ids, _ = _joined(self._parts(without_open_reply(checked(messages))))
        return ids + self._encode(REPLY_TAG)

    def training_ids(self, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        """Ids of the whole transcript; learned are each reply, its newline and the tag that follows it.

        After a last reply that is the user's, as in a chat: without it a model would never learn to stop.
        """
        turns = checked(messages)
        open_end = [(self._encode(USER_TAG), True)] if turns and turns[-1][0] == "assistant" else []
        return _joined([*self._parts(turns), *open_end])

    def _parts(self, turns: Iterable[tuple[str, str]]) -> Iterable[tuple[list[int], bool]]:
        ends_reply = False
        for role, content in turns:
            tag, body = f"{role}: ", format_turn(role, content).removeprefix(f"{role}: ")
            replies = role == "assistant"
            yield self._encode(tag), ends_reply and not replies
            yield self._encode(body), replies
            ends_reply = replies


class RoleTokenTemplate:
    """<|sys|>text<|eot|><|usr|>text<|eot|><|asst|>reply<|eot|>; contents go through byte for byte."""

    name = "role-tokens"
    version = 1

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._encode = Encoder(tokenizer.encode_ids)
        control = tokenizer.special_token_ids()
        self._role_ids = {"system": control["sys"], "user": control["usr"], "assistant": control["asst"]}
        self._eot = control["eot"]
        self.stop_ids = frozenset({self._eot})
        self.stop_sequences: tuple[bytes, ...] = ()
        self.banned_ids = frozenset(control.values()) - self.stop_ids

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Ids of the turns, then <|asst|>."""
        ids, _ = _joined(self._parts(without_open_reply(checked(messages))))
        return [*ids, self._role_ids["assistant"]]

    def training_ids(self, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        """Ids of the turns; learned are each reply and its <|eot|>."""
        return _joined(self._parts(checked(messages)))

    def _parts(self, turns: Iterable[tuple[str, str]]) -> Iterable[tuple[list[int], bool]]:
        for role, content in turns:
            yield [self._role_ids[role]], False
            yield [*self._encode(content), self._eot], role == "assistant"


def template_for(tokenizer: Tokenizer) -> Template:
    """Role tokens where the tokenizer has them, else the transcript."""
    roles = "asst" in tokenizer.special_token_ids()
    return RoleTokenTemplate(tokenizer) if roles else TranscriptTemplate(tokenizer)
