"""How a conversation becomes token ids, and where a reply ends. The tokenizer decides which of two ways.

Bytes have no control tokens: the transcript of `chat_format`, ended by the next tag. With control tokens,
each turn is one role token, its text, and <|eot|>, which alone ends a reply. In both, no text becomes a
turn. Training and chat get their ids from the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from niels_gpt.text.tokenizer import Tokenizer
from niels_gpt.text.transcript import REPLY_TAG, STOP_TAGS, Message, checked, format_turn, without_open_reply


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


USER_TAG = "user: "
REMEMBERED_CHARACTERS = 2**22


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
