"""What is to be continued, and what came of it. Values only; knows no model and no file but the prompts'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from niels_gpt.conversation.errors import ChatError
from niels_gpt.text import files


class Encodes(Protocol):
    """A tokenizer, seen from here."""

    def encode_ids(self, text: str) -> list[int]:
        """Return the ids of a text."""
        ...


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One prompt; `text` is None for one that was given as ids."""

    index: int
    text: str | None
    ids: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One sample of one prompt; `text` and `ids` are the continuation alone."""

    prompt: Prompt
    sample: int
    text: str
    ids: tuple[int, ...]
    finish: str
    """"stop", "length", "context", or "beam"."""
    seed: int | None


def read_lines(path: Path) -> list[str]:
    """Return the prompts of a file, one a line, without blanks around them; empty lines are none."""
    prompts = [line.strip() for line in files.read_lines(path, "--prompts") if line.strip()]
    if not prompts:
        raise ChatError(f"--prompts {str(path)!r} has no prompt: expected one a line")
    return prompts


def encoded(texts: Sequence[str], tokenizer: Encodes) -> list[Prompt]:
    """Return the prompts of texts."""
    return [
        Prompt(index=index, text=text, ids=tuple(tokenizer.encode_ids(text)))
        for index, text in enumerate(texts)
    ]


def checked(prompts: Sequence[Prompt], *, V: int, context: int, room: int) -> Sequence[Prompt]:
    """Return them; ChatError for the first that the model cannot continue by `room` tokens at least."""
    for prompt in prompts:
        where = "the prompt" if len(prompts) == 1 else f"prompt {prompt.index + 1}"
        if not prompt.ids:
            raise ChatError(f"{where} is empty, expected at least one token")
        if not 0 <= min(prompt.ids) <= max(prompt.ids) < V:
            bad = next(i for i in prompt.ids if not 0 <= i < V)
            raise ChatError(f"{where} has the token id {bad}, the model knows 0 to {V - 1}")
        if len(prompt.ids) + room > context:
            raise ChatError(
                f"{where} has {len(prompt.ids)} tokens, which leaves no room for a reply in the context of "
                f"{context}: shorten it"
            )
    return prompts
