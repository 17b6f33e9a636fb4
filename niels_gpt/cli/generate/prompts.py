"""Define a prompt and its completion, and parse prompts from lines of text, JSON and OpenAI batches."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from niels_gpt.errors import NielsGptError
from niels_gpt.text.chat_template import Message, Template, checked
from niels_gpt.text.model_template import RawTemplate
from niels_gpt.text.tokenizer import Tokenizer


class PromptError(NielsGptError):
    """A prompt that cannot be read or continued; the message names its line."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One prompt; `text` is None for one that was given as ids or messages."""

    index: int
    """Number of its line, counted from 0; blank lines count."""
    text: str | None
    ids: tuple[int, ...]
    batch_request: Mapping[str, Any] | None = None
    """The line of an OpenAI batch, if it is one."""


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One sample of one prompt; `text` and `ids` are the continuation only."""

    prompt: Prompt
    sample: int
    text: str
    ids: tuple[int, ...]
    finish: str
    """"stop", "length", "context", "beam", or "error"."""
    seed: int | None
    error: Exception | None = None


@dataclass(frozen=True, kw_only=True)
class PromptEncoder:
    """Turn texts and messages into the ids of prompts.

    With `template`, a text is answered as a message of a chat that begins with `system`; without, it is
    continued as it is.
    """

    tokenizer: Tokenizer
    template: Template
    answers: bool
    """Whether a text is a message that is answered; else it is continued."""
    system: str
    context: int
    room: int
    """Tokens of a reply for which there must be room at least."""

    def of_text(self, text: str, *, index: int = 0, where: str = "the prompt") -> Prompt:
        """Return the prompt of a text; PromptError if it cannot be continued."""
        if not text:
            raise PromptError(f"{where} is empty, expected at least one token")
        if self.answers:
            ids = self.chat_ids([{"role": "user", "content": text}], where=where)
        elif isinstance(self.template, RawTemplate):  # with what its texts begin with
            ids = self.template.prompt_ids([{"role": "user", "content": text}])
        else:
            ids = self.tokenizer.encode_ids(text)
        return self.of_ids(ids, index=index, text=text, where=where)

    def of_ids(
        self, ids: Sequence[int], *, index: int = 0, text: str | None = None, where: str = "the prompt"
    ) -> Prompt:
        """Return the prompt of ids; PromptError for an unknown id, or where no room for a reply is left."""
        V = self.tokenizer.vocab_size
        if not ids:
            raise PromptError(f"{where} is empty, expected at least one token")
        bad = next((i for i in ids if not 0 <= i < V), None)
        if bad is not None:
            raise PromptError(f"{where} has the token id {bad}, the model knows 0 to {V - 1}")
        if len(ids) + self.room > self.context:
            raise PromptError(
                f"{where} has {len(ids)} tokens, which leaves no room for a reply in the context of "
                f"{self.context}: shorten it"
            )
        return Prompt(index=index, text=text, ids=tuple(ids))

    def chat_ids(self, messages: Sequence[Message], *, where: str) -> list[int]:
        """Return the ids of a conversation up to the reply, with the system prompt unless it has its own."""
        try:
            turns = checked(messages)
            if self.system and (not turns or turns[0][0] != "system"):
                messages = [{"role": "system", "content": self.system}, *messages]
            return self.template.prompt_ids(messages)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise PromptError(f"{where}: messages are {messages!r:.200}: {error}") from error

    def of_line(self, line: str, *, index: int, as_json: bool) -> Prompt:
        """Return the prompt of a line that is not blank."""
        where = f"line {index + 1}"
        if not as_json:
            return self.of_text(line, index=index, where=where)
        value = json_object(line, where=where)
        if is_batch_request(value):
            return Prompt(index=index, text=None, ids=(), batch_request=value)
        kinds = [key for key in ("prompt", "messages", "prompt_ids") if key in value]
        if len(kinds) != 1:
            raise PromptError(
                f"{where} has the keys {', '.join(map(repr, value)) or 'none'}, expected one of 'prompt', "
                "'messages', 'prompt_ids', or the 'custom_id' and 'body' of an OpenAI batch"
            )
        found = value[kinds[0]]
        if kinds[0] == "messages" and isinstance(found, list):
            return self.of_ids(self.chat_ids(found, where=where), index=index, where=where)
        if kinds[0] == "prompt_ids" and _are_ids(found):
            return self.of_ids(found, index=index, where=where)
        if kinds[0] == "prompt" and isinstance(found, str):
            return self.of_text(found, index=index, where=where)
        raise PromptError(
            f"{where}: {kinds[0]} is {found!r:.100}, expected a text, a list of messages, or a list of ids"
        )


def json_object(line: str, *, where: str) -> dict[str, Any]:
    """Return the JSON object of a line; PromptError for anything else."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise PromptError(f"{where} is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise PromptError(f"{where} is a JSON {type(value).__name__}, expected an object")
    return value


def is_batch_request(value: Mapping[str, Any]) -> bool:
    """Return whether a line is a request of OpenAI's batch format."""
    return "custom_id" in value and "body" in value


def _are_ids(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(i, int) and not isinstance(i, bool) for i in value)
