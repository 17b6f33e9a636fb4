"""Formats in which a conversation is a list of role and text: OpenAI's `messages`, and ShareGPT.

Only the path to the head is written, without ids, settings or digests. Roles that have no place here, such
as those of tools, are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sessions.formats.builder import clean_name, in_a_row, path_of, room_for_message
from sessions.formats.field_validation import Fields
from sessions.formats.json_lines import Output, json_line
from sessions.formats.json_reader import Source
from sessions.records import Role, SessionArchive

_TITLE_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class TurnList:
    """How one format spells a conversation.

    ``named`` is the field for the session's name that is written, ``titles`` those that are read;
    ``writes`` has the name of each role, ``reads`` the role of each name.
    """

    turns: str
    role: str
    text: str
    named: str | None
    titles: tuple[str, ...]
    writes: Mapping[Role, str]
    reads: Mapping[str, Role]

    def write(self, archives: Sequence[SessionArchive], file: Output) -> None:
        """Write each session's path as one line."""
        for archive in archives:
            named = {} if self.named is None else {self.named: archive.session.name}
            turns = [
                {self.role: self.writes[each.role], self.text: each.content} for each in path_of(archive)
            ]
            file.write(json_line({**named, self.turns: turns}) + "\n")

    def matches(self, first: Fields) -> bool:
        """Return whether a file whose first record this is can be in this format."""
        return isinstance(first.values.get(self.turns), list)

    def read(self, source: Source) -> Iterator[SessionArchive]:
        """Yield the conversations of a file of JSON lines, or of one JSON array."""
        for number, record in enumerate(source.records(), start=1):
            if number > source.limits.sessions:
                record.refuse("", f"is one too many: expected at most {source.limits.sessions:,} sessions")
            title = next((record.values[key] for key in self.titles if key in record.values), None)
            name = clean_name(
                title[:_TITLE_BYTES] if isinstance(title, str) else None, f"{source.path.stem}-{number}"
            )
            yield in_a_row(name, list(self._said(record)), created=source.now)

    def _said(self, record: Fields) -> Iterator[tuple[Role, str]]:
        for count, turn in enumerate(record.objects(self.turns)):
            room_for_message(turn, count)
            yield self.reads[turn.one_of(self.role, self.reads)], _text(turn, self.text)


def _text(turn: Fields, key: str) -> str:
    """Return a text, also where it comes as a list of parts."""
    if not isinstance(turn.value(key), list):
        return turn.text(key)
    parts: list[str] = []
    for part in turn.objects(key):
        part.one_of("type", ["text"])
        parts.append(part.text("text"))
    return turn.checked(key, "".join(parts))


OPENAI = TurnList(
    turns="messages",
    role="role",
    text="content",
    # Those who read this format refuse lines with a field that they do not know.
    named=None,
    titles=("title", "name", "id"),
    writes={"system": "system", "user": "user", "assistant": "assistant"},
    reads={"system": "system", "developer": "system", "user": "user", "assistant": "assistant"},
)

SHAREGPT = TurnList(
    turns="conversations",
    role="from",
    text="value",
    named="id",
    titles=("title", "id"),
    writes={"system": "system", "user": "human", "assistant": "gpt"},
    reads={
        "system": "system",
        "human": "user",
        "user": "user",
        "gpt": "assistant",
        "chatgpt": "assistant",
        "assistant": "assistant",
        "bing": "assistant",
        "bard": "assistant",
    },
)
