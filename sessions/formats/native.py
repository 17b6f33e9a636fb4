"""Read and write sessions losslessly as JSON lines, so that imported sessions verify and replay.

The first line names the format, its version and the number of sessions. Each session is then one line of
type "session", which counts what follows it, and one line for each checkpoint, message and generation. Ids
are those of the store that wrote the file: they link the records of a session, and an import assigns new
ones. Digests are checked line by line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields as fields_of
from datetime import datetime
from functools import cache, partial
from types import NoneType
from typing import TYPE_CHECKING, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from sessions.archive_validation import checked_archive
from sessions.errors import InvalidName, InvalidValue
from sessions.formats.builder import room_for_message
from sessions.formats.errors import ImportRefused, quoted
from sessions.formats.field_validation import Fields
from sessions.formats.json_lines import Output, json_line
from sessions.formats.json_reader import Source
from sessions.integrity import generation_faults, message_faults, verified
from sessions.records import (
    Checkpoint,
    Generation,
    Message,
    Session,
    SessionArchive,
)
from sessions.validation import checked_name

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

FORMAT, VERSION = "niels-gpt sessions", 1

_Part = Literal["checkpoint", "message", "generation"]
_PARTS: tuple[_Part, ...] = get_args(_Part)
_ENVIRONMENT_TEXTS = ("weights", "device", "path", "dtype", "cpu", "torch", "numba")
_ENVIRONMENT_NUMBERS = ("threads", "kernel_version", "context_rule")
_LONGEST = 1e9  # seconds that a reply can have taken
_SHORT = 1 << 12  # bytes of short strings: names, hashes, paths
_LONG = ("content", "error")  # texts as long as a message
T = TypeVar("T")
R = TypeVar("R", bound="DataclassInstance")


def write(archives: Sequence[SessionArchive], file: Output) -> None:
    """Write the sessions, one record per line."""
    _line(file, {"format": FORMAT, "version": VERSION, "sessions": len(archives)})
    for archive in archives:
        parts: dict[_Part, Sequence[Checkpoint | Message | Generation]] = {
            "checkpoint": archive.checkpoints,
            "message": archive.messages,
            "generation": archive.generations,
        }
        counts = {f"{part}s": len(records) for part, records in parts.items()}
        _line(file, {"type": "session", **_values(archive.session), "digest": archive.digest, **counts})
        for part, records in parts.items():
            for record in records:
                _line(file, {"type": part, **_values(record)})


def is_ours(first: Fields) -> bool:
    """Return whether the first line of a file is the header that ``write`` writes."""
    return first.values.get("format") == FORMAT


def read(source: Source) -> Iterator[SessionArchive]:
    """Yield the sessions of a file. Raises ImportRefused for the first invalid line."""
    lines = _Lines(source.lines())
    header = lines.next()
    if header is None:
        raise ImportRefused(f"{source.name}, line 1", "format", f"is not {FORMAT!r}")
    count = session_count(header)
    for number in range(count):
        first = lines.next()
        if first is None:
            what = f"ends after {number} of its {count} sessions: it is cut off"
            source.skip(ImportRefused(source.name, "", what))
            return
        archive = source.attempt(partial(_session, first, lines))
        if archive is None:
            lines.skip_to_session()
        else:
            yield archive
    more = lines.next()
    if more is not None:
        source.attempt(partial(more.refuse, "", "comes after the last session of the file"))


def session_count(header: Fields) -> int:
    """Return the number of sessions that the first line of a file states. Raises ImportRefused."""
    if not is_ours(header):
        raise ImportRefused(header.where, "format", f"is not {FORMAT!r}")
    version = header.integer("version")
    if version != VERSION:
        header.refuse("version", f"{version} is not known: this program reads {VERSION}")
    count = header.integer("sessions")
    if not 0 <= count <= header.limits.sessions:
        header.refuse("sessions", f"{count:,}: expected at most {header.limits.sessions:,}")
    return count


def read_session(lines: Iterable[Fields]) -> SessionArchive:
    """Return one session from its lines, checked as ``read`` checks it. Raises ImportRefused.

    Args:
        lines: The line of type "session" and the lines of its records, no others.

    """
    rest = _Lines(iter(lines))
    first = rest.next()
    assert first is not None  # noqa: S101 - the caller found it
    archive = _session(first, rest)
    more = rest.next()
    if more is not None:
        more.refuse("", "comes after the last record that its session counts")
    return archive


class _Lines:
    """The lines of a file; the last line read can be pushed back."""

    def __init__(self, lines: Iterator[Fields]) -> None:
        self._lines = lines
        self._given_back: Fields | None = None

    def next(self) -> Fields | None:
        """Return the next line; None at the end."""
        line, self._given_back = self._given_back, None
        return next(self._lines, None) if line is None else line

    def next_of(self, part: _Part) -> Fields | None:
        """Return the next line, which must have this type; None at the end or at the next session."""
        line = self.next()
        if line is not None and line.values.get("type") == "session":
            self._given_back = line
            return None
        if line is not None:
            line.one_of("type", [part])
        return line

    def skip_to_session(self) -> None:
        """Skip lines up to the beginning of the next session."""
        while (line := self.next()) is not None:
            if line.values.get("type") == "session":
                self._given_back = line
                return


def _session(first: Fields, lines: _Lines) -> SessionArchive:
    first.one_of("type", ["session"])
    session = Session(
        id=first.integer("id"),
        name=_name(first),
        seed=first.integer("seed"),
        settings=_plain(first, "settings"),
        head_id=first.integer_or_none("head_id"),
        forked_from=first.integer_or_none("forked_from"),
        forked_at=first.integer_or_none("forked_at"),
        created=first.moment("created"),
        last_used=first.moment("last_used"),
        archived=first.truth("archived"),
    )
    digest = first.text("digest", most=_SHORT)
    if first.integer("messages") > first.limits.messages:
        first.refuse("messages", f"expected at most {first.limits.messages:,}")
    checkpoints = _records(first, lines, "checkpoint", _checkpoint)
    messages: dict[int, Message] = {}
    for line, message in _records(first, lines, "message", _message).values():
        room_for_message(line, len(messages))
        _check_message(line, message, messages)
        messages[message.id] = message
    fingerprints = {each.id: each.fingerprint for _, each in checkpoints.values()}
    generations = _records(first, lines, "generation", _generation)
    for line, generation in generations.values():
        _check_generation(line, generation, messages, fingerprints)
    for key in ("head_id", "forked_at"):
        at = first.integer_or_none(key)
        if at is not None and at not in messages:
            first.refuse(key, f"the session has no message {at}")
    archive = SessionArchive(
        session=session,
        messages=tuple(messages.values()),
        generations=tuple(each for _, each in generations.values()),
        checkpoints=tuple(each for _, each in checkpoints.values()),
        digest=digest,
    )
    found = verified(session.head_id, archive.messages, archive.generations, archive.checkpoints).digest
    if digest != found:
        first.refuse("digest", f"is {quoted(digest)}, but its messages give {found!r}: it was changed")
    try:
        checked_archive(archive)
    except InvalidValue as error:
        first.refuse("", str(error))
    return archive


def _name(first: Fields) -> str:
    name = first.text("name", most=_SHORT)
    try:
        return checked_name(name)
    except InvalidName as error:
        first.refuse("name", str(error))


def _records(
    first: Fields, lines: _Lines, part: _Part, record: Callable[[Fields], T]
) -> dict[int, tuple[Fields, T]]:
    """Read the number of lines of one type that the session's line states."""
    count = first.integer(f"{part}s")
    found: dict[int, tuple[Fields, T]] = {}
    for number in range(count):
        line = lines.next_of(part)
        if line is None:
            first.refuse(f"{part}s", f"there are {number} of {count}: the file is cut off")
        key = line.integer("id")
        if key in found:
            line.refuse("id", f"{key} is the id of two {part}s")
        found[key] = (line, record(line))
    return found


def _checkpoint(line: Fields) -> Checkpoint:
    return _record(Checkpoint, line)


def _message(line: Fields) -> Message:
    return _record(Message, line)


def _generation(line: Fields) -> Generation:
    return _record(
        Generation,
        line,
        environment=_environment(line),
        receipt=_receipt(line) if line.has("receipt") else None,
        timings=_timings(line) if line.has("timings") else None,
    )


def _record(record: type[R], line: Fields, **known: object) -> R:
    """Read a record, each field by its type; one that may be None may be absent.

    Args:
        record: The type of the record.
        line: The object to read.
        known: Fields that are read already.

    """
    values = dict(known)
    for name, kind, optional in _typed_fields(record):
        if name not in known:
            values[name] = None if optional and not line.has(name) else _value(line, name, kind)
    return record(**values)


@cache
def _typed_fields(record: type[DataclassInstance]) -> tuple[tuple[str, object, bool], ...]:
    """Return the name of each field, its type, and whether it may be None."""
    found: list[tuple[str, object, bool]] = []
    for name, hint in get_type_hints(record).items():
        parts = get_args(hint)
        optional = NoneType in parts
        found.append(
            (name, next(part for part in parts if part is not NoneType) if optional else hint, optional)
        )
    return tuple(found)


def _value(line: Fields, name: str, kind: object) -> object:
    if get_origin(kind) is Literal:
        return line.one_of(name, get_args(kind))
    if kind is str:
        return line.text(name, most=None if name in _LONG else _SHORT)
    readers: dict[object, Callable[[str], object]] = {
        int: line.integer,
        bool: line.truth,
        datetime: line.moment,
        tuple: line.integers,
        Mapping: line.mapping,
    }
    return readers[get_origin(kind) or kind](name)


def _plain(line: Fields, key: str) -> dict[str, object]:
    """Return an object of names and plain values; a list may hold plain values."""
    values = line.mapping(key)
    inner = line.inner(key)
    for name, value in values.items():
        members = cast("list[object]", value) if isinstance(value, list) else [value]
        if any(isinstance(each, dict | list) for each in members):
            inner.refuse(name, f"{quoted(cast('object', value))} is not a plain value")
    return values


def _receipt(line: Fields) -> dict[str, object]:
    """Return the decoder's metadata; the hash of the logits is text."""
    line.inner("receipt").text_or_none("logits_hash", most=_SHORT)
    return line.mapping("receipt")


def _timings(line: Fields) -> dict[str, object]:
    """Return an object of seconds."""
    values = line.mapping("timings")
    inner = line.inner("timings")
    for name, value in values.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LONGEST:
            inner.refuse(name, f"{quoted(value)} is not a number of seconds")
    return values


def _environment(line: Fields) -> dict[str, object]:
    """Return a reply's metadata; the values that a replay reads are type-checked."""
    values = line.mapping("environment")
    inner = line.inner("environment")
    for key in _ENVIRONMENT_TEXTS:
        inner.text_or_none(key, most=_SHORT)
    for key in _ENVIRONMENT_NUMBERS:
        inner.integer_or_none(key)
    if inner.has("seed_source"):
        source = inner.inner("seed_source")
        for key in ("session_seed", "turn", "attempt"):
            source.integer(key)
    return values


def _check_message(line: Fields, message: Message, before: Mapping[int, Message]) -> None:
    parent = None if message.parent_id is None else before.get(message.parent_id)
    if message.parent_id is not None and parent is None:
        line.refuse("parent_id", f"no message {message.parent_id} comes before this one")
    expected = 0 if parent is None else parent.position + 1
    if message.position != expected:
        line.refuse("position", f"{message.position} is not {expected}, the one after its parent's")
    for fault in message_faults(message, parent):
        line.refuse("digest", f"is {fault.expected!r}, but its values give {fault.got!r}: it was changed")


def _check_generation(
    line: Fields, generation: Generation, messages: Mapping[int, Message], fingerprints: Mapping[int, str]
) -> None:
    fingerprint = fingerprints.get(generation.checkpoint_id)
    if fingerprint is None:
        line.refuse("checkpoint_id", f"the session has no checkpoint {generation.checkpoint_id}")
    user = messages.get(generation.user_message_id)
    if user is None or user.role != "user":
        line.refuse("user_message_id", f"the session has no user message {generation.user_message_id}")
    reply = None if generation.reply_id is None else messages.get(generation.reply_id)
    if generation.reply_id is not None and (reply is None or reply.parent_id != user.id):
        line.refuse("reply_id", f"message {generation.reply_id} is not a reply to message {user.id}")
    expected = ("complete", "cancelled") if reply is None else (reply.status,)
    if (generation.status in expected) != (reply is not None):
        line.refuse("status", f"is {generation.status!r}, which its reply is not")
    for fault in generation_faults(generation, user, reply, fingerprint):
        line.refuse("digest", f"is {fault.expected!r}, but its values give {fault.got!r}: it was changed")


def _values(record: Session | Checkpoint | Message | Generation) -> dict[str, object]:
    return {field.name: getattr(record, field.name) for field in fields_of(record)}


def _line(file: Output, value: Mapping[str, object]) -> None:
    file.write(json_line(value) + "\n")
