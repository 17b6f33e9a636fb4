"""Select the content of Markdown and HTML documents, and make its control characters visible.

Documents are for reading: they show the path to the head, and cannot be imported. The heading describes how
the replies were generated, with file names only; a reply repeats only the values that differ.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sessions.formats.builder import path_of
from sessions.records import Generation, Message, SessionArchive

SPEAKERS = {"system": "System", "user": "User", "assistant": "Assistant"}

# Control characters become their visible symbols; newline and tab stay.
_DIRECTION_MARKS = [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_PICTURES = {
    **{code: 0x2400 + code for code in range(0x20) if code not in {0x09, 0x0A}},
    0x7F: 0x2421,
    **dict.fromkeys([*range(0x80, 0xA0), 0xFFFE, 0xFFFF, *_DIRECTION_MARKS], 0xFFFD),
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One message of a document, and how it differs from the heading if it is a reply."""

    speaker: str
    message: Message
    text: str
    facts: str


def visible(text: str) -> str:
    """Return the text with control characters and direction marks replaced by visible ones."""
    return text.replace("\r\n", "\n").translate(_PICTURES)


def entries(archive: SessionArchive) -> Iterator[Entry]:
    """Yield the messages of the path to the head; a reply shows only its differences from the heading."""
    made_by = {each.reply_id: each for each in archive.generations if each.reply_id is not None}
    usual = _usual(archive)
    paths = {each.id: each.path for each in archive.checkpoints}
    for message in path_of(archive):
        generation = made_by.get(message.id)
        facts = "" if generation is None else " · ".join(_differing(generation, paths, usual))
        yield Entry(
            speaker=SPEAKERS[message.role],
            message=message,
            text=visible(message.content),
            facts=visible(facts),
        )


def summary(archive: SessionArchive) -> list[tuple[str, str]]:
    """Return the facts about the session as a whole, as pairs of a name and a value."""
    shown = len(path_of(archive))
    elsewhere = len(archive.messages) - shown
    facts = [
        ("created", f"{archive.session.created:%Y-%m-%d %H:%M} UTC"),
        ("messages", str(shown) + (f" (and {elsewhere} in other branches)" if elsewhere else "")),
        ("seed", str(archive.session.seed)),
        *_usual(archive).items(),
        ("digest", archive.digest),
    ]
    return [(name, visible(value)) for name, value in facts]


def _usual(archive: SessionArchive) -> dict[str, str]:
    """Return the checkpoint and the sampling settings of the first reply of the path."""
    made_by = {each.reply_id: each for each in archive.generations if each.reply_id is not None}
    paths = {each.id: each.path for each in archive.checkpoints}
    found = (made_by[each.id] for each in path_of(archive) if each.id in made_by)
    first = next(found, None)
    return {} if first is None else _how(first, paths)


def _how(generation: Generation, paths: Mapping[int, str]) -> dict[str, str]:
    # Only the file name: a folder name may contain a person's name.
    name = re.split(r"[/\\]", paths[generation.checkpoint_id])[-1]
    return {"checkpoint": name, "sampling": _sampling(generation.sampling)}


def _sampling(sampling: Mapping[str, object]) -> str:
    words = [
        f"{name} {value}"
        for name, value in sampling.items()
        # A switch is not a sampling setting, and disabled settings are not shown.
        if value is not None and not isinstance(value, bool)
    ]
    return ", ".join(words)


def _differing(generation: Generation, paths: Mapping[int, str], usual: Mapping[str, str]) -> Iterator[str]:
    """Yield the facts that the heading does not show."""
    for name, value in _how(generation, paths).items():
        if usual.get(name) != value:
            yield value
    if generation.attempt:
        yield f"attempt {generation.attempt + 1}"
    if generation.finish_reason not in {None, "stop"}:
        yield f"ended by {generation.finish_reason}"
