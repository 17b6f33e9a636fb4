"""What Markdown and HTML documents have in common: which facts they tell, and that no text in them is obeyed.

Documents are for reading: they show the path to the head, and cannot be imported.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sessions.formats.builder import path_of
from sessions.records import Generation, Message, SessionArchive

SPEAKERS = {"system": "System", "user": "User", "assistant": "Assistant"}

# Controls that documents may not hold become their pictures; newline and tab stay.
_DIRECTION_MARKS = [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_PICTURES = {
    **{code: 0x2400 + code for code in range(0x20) if code not in {0x09, 0x0A}},
    0x7F: 0x2421,
    **dict.fromkeys([*range(0x80, 0xA0), 0xFFFE, 0xFFFF, *_DIRECTION_MARKS], 0xFFFD),
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One message of a document, and how its reply came about if it is one."""

    speaker: str
    message: Message
    text: str
    facts: str


def visible(text: str) -> str:
    """Return the text with control characters and direction marks replaced by visible ones."""
    return text.replace("\r\n", "\n").translate(_PICTURES)


def entries(archive: SessionArchive) -> Iterator[Entry]:
    """Yield the messages of the path to the head."""
    made_by = {each.reply_id: each for each in archive.generations if each.reply_id is not None}
    paths = {each.id: each.path for each in archive.checkpoints}
    for message in path_of(archive):
        generation = made_by.get(message.id)
        told = "" if generation is None else _facts(generation, paths[generation.checkpoint_id])
        yield Entry(
            speaker=SPEAKERS[message.role],
            message=message,
            text=visible(message.content),
            facts=visible(told),
        )


def summary(archive: SessionArchive) -> list[tuple[str, str]]:
    """Return what a document tells about the session as a whole, as pairs of a name and a value."""
    shown = len(path_of(archive))
    elsewhere = len(archive.messages) - shown
    facts = [
        ("begun", f"{archive.session.created:%Y-%m-%d %H:%M} UTC"),
        ("messages", str(shown) + (f" (and {elsewhere} in other branches)" if elsewhere else "")),
        ("seed", str(archive.session.seed)),
    ]
    facts += [("checkpoint", each.path) for each in archive.checkpoints]
    return [(name, visible(value)) for name, value in [*facts, ("digest", archive.digest)]]


def _facts(generation: Generation, path: str) -> str:
    sampling = ", ".join(
        f"{name} {value}" for name, value in generation.sampling.items() if value is not None
    )
    ending = "" if generation.finish_reason in {None, "stop"} else f" · ended by {generation.finish_reason}"
    return f"{path} · seed {generation.seed} · {sampling}{ending}"
