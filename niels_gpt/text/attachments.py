"""Attach the text of files to a message.

The message that is sent and stored holds the whole text between two marked lines, so that a replay needs no
file. `folded` takes it out again where a message is only recalled.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from niels_gpt.text.files import UnreadableTextError, read_text

_MARKED = re.compile(r"\n*^--- (?P<name>[^\n]+) ---\n(?P<text>.*?\n)^--- end of (?P=name) ---$", re.M | re.S)


@dataclass(frozen=True, kw_only=True)
class Attachment:
    """A named text that goes with a message."""

    name: str
    text: str

    @property
    def described(self) -> str:
        """The name and the size, for a notice."""
        size = len(self.text.encode())
        return f"{self.name} ({size:,} byte{'' if size == 1 else 's'})"


def attach(path: Path) -> Attachment:
    """Read a text file.

    Raises:
        UnreadableTextError: It cannot be read, is not UTF-8 text, or is empty.
    """
    text = read_text(path, "the file")
    if "\0" in text:
        raise UnreadableTextError(f"the file {str(path)!r} is not text: it has a zero byte")
    if not text.strip():
        raise UnreadableTextError(f"the file {str(path)!r} is empty")
    return Attachment(name=" ".join(path.name.split()), text=text)


def with_attachments(message: str, attachments: Sequence[Attachment]) -> str:
    """Return a message followed by the texts, each between two lines with its name."""
    parts = [message] if message else []
    for each in attachments:
        text = each.text if each.text.endswith("\n") else f"{each.text}\n"
        parts.append(f"--- {each.name} ---\n{text}--- end of {each.name} ---")
    return "\n\n".join(parts)


def folded(message: str) -> str:
    """Return a message with the name and size of each attached text in its place."""

    def name_of(found: re.Match[str]) -> str:
        attachment = Attachment(name=found["name"], text=found["text"])
        return ("\n" if found.start() else "") + f"[{attachment.described}]"

    return _MARKED.sub(name_of, message)
