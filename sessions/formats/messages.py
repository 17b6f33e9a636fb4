"""Read and write conversations as lists of role and text: OpenAI's `messages`, and ShareGPT.

Only the path to the head is written, without ids, settings or digests. Tool messages and calls, and message
parts that are not text, are left out and counted. An unknown role is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from sessions.formats.builder import clean_name, in_a_row, one_for_each_record, path_of, room_for_message
from sessions.formats.field_validation import Fields
from sessions.formats.json_lines import Output, json_line
from sessions.formats.json_reader import Source
from sessions.records import Role, SessionArchive

_TITLE_BYTES = 1 << 16
_TEXTS = ("text", "input_text", "output_text")
_PARTS = {
    **dict.fromkeys(_TEXTS, ""),
    "image_url": "pictures",
    "input_image": "pictures",
    "input_audio": "sounds",
    "file": "files",
    "input_file": "files",
    "refusal": "refusals",
}
"""Kinds of message parts, with plural names for those without text."""


@dataclass(frozen=True, kw_only=True)
class TurnList:
    """The field and role names of one format.

    ``named`` is the field for the session's name that is written, ``titles`` those that are read;
    ``writes`` has the name of each role, ``reads`` the role of each name. Messages of the roles ``tools``
    are left out.
    """

    turns: str
    role: str
    text: str
    named: str | None
    titles: tuple[str, ...]
    writes: Mapping[Role, str]
    reads: Mapping[str, Role]
    tools: tuple[str, ...]

    def write(self, archives: Sequence[SessionArchive], file: Output) -> None:
        """Write each session's path as one line."""
        for archive in archives:
            named = {} if self.named is None else {self.named: archive.session.name}
            turns = [
                {self.role: self.writes[each.role], self.text: each.content} for each in path_of(archive)
            ]
            file.write(json_line({**named, self.turns: turns}) + "\n")

    def matches(self, first: Fields) -> bool:
        """Return whether a file with this first record can be in this format."""
        return isinstance(first.values.get(self.turns), list)

    def read(self, source: Source) -> Iterator[SessionArchive]:
        """Return the conversations of a file of JSON lines, or of one JSON array."""
        return one_for_each_record(source, partial(self._session, source))

    def _session(self, source: Source, record: Fields, fallback: str) -> SessionArchive | None:
        title = next((record.values[key] for key in self.titles if key in record.values), None)
        name = clean_name(title[:_TITLE_BYTES] if isinstance(title, str) else None, fallback)
        said = list(self._said(record, source))
        if not said:
            source.leave_out("sessions without messages", where=record.where)
            return None
        return in_a_row(name, said, created=source.now)

    def _said(self, record: Fields, source: Source) -> Iterator[tuple[Role, str]]:
        for count, turn in enumerate(record.objects(self.turns)):
            room_for_message(turn, count)
            where = f"{turn.where}, {turn.path.rstrip('.')}"
            if turn.values.get(self.role) in self.tools:
                source.leave_out("messages of tools", where=where)
                continue
            role = self.reads[turn.one_of(self.role, self.reads)]
            calls = turn.has("tool_calls") or turn.has("function_call")
            if calls:
                source.leave_out("calls of tools", where=where)
            if not calls or turn.values.get(self.text):
                yield role, _text(turn, self.text, source)


def _text(turn: Fields, key: str, source: Source) -> str:
    """Return a text, which may be given as a list of parts; parts without text are left out."""
    if not isinstance(turn.value(key), list):
        return turn.text(key)
    parts: list[str] = []
    for part in turn.objects(key):
        kind = part.one_of("type", _PARTS)
        if kind in _TEXTS:
            parts.append(part.text("text"))
        else:
            source.leave_out(_PARTS[kind], where=f"{part.where}, {part.path.rstrip('.')}")
    return turn.checked(key, "".join(parts))


OPENAI = TurnList(
    turns="messages",
    role="role",
    text="content",
    # Readers of this format refuse lines with an unknown field.
    named=None,
    titles=("title", "name", "id"),
    writes={"system": "system", "user": "user", "assistant": "assistant"},
    reads={"system": "system", "developer": "system", "user": "user", "assistant": "assistant"},
    tools=("tool", "function"),
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
    tools=("tool", "function_call", "observation"),
)
