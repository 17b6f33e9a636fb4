"""Read the typed fields of one foreign JSON object; errors name the line and the field.

Everything is checked: presence, type, range, and that text has a UTF-8 form.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NoReturn, cast

from sessions.errors import InvalidValue
from sessions.formats.errors import ImportRefused, quoted
from sessions.formats.limits import Limits
from sessions.validation import checked_int, checked_json, checked_text


@dataclass(frozen=True, kw_only=True)
class Fields:
    """One object. ``where`` is its line or element, ``path`` its place in that, such as ``messages[3].``."""

    where: str
    values: Mapping[str, object]
    limits: Limits
    path: str = ""

    def refuse(self, key: str, what: str) -> NoReturn:
        """Raise ImportRefused about a field."""
        raise ImportRefused(self.where, f"{self.path}{key}".rstrip("."), what)

    def has(self, key: str) -> bool:
        """Return whether the field is present and not null."""
        return self.values.get(key) is not None

    def value(self, key: str) -> object:
        """Return the field unchanged; refuse the file if it is missing."""
        if key not in self.values:
            self.refuse(key, "is missing")
        return self.values[key]

    def text(self, key: str, *, most: int | None = None) -> str:
        """Return a string of at most ``most`` UTF-8 bytes (None: those of a message)."""
        return self.checked(key, self.value(key), most=most)

    def checked(self, key: str, value: object, *, most: int | None = None) -> str:
        """Check a value at ``key`` in the same way as ``text`` and return it."""
        limit = self.limits.message_bytes if most is None else most
        if not isinstance(value, str):
            self.refuse(key, f"{quoted(value)} is not text")
        try:
            size = len(checked_text(value, "it").encode())
        except InvalidValue as error:
            self.refuse(key, str(error))
        if size > limit:
            self.refuse(key, f"has {size:,} bytes: expected at most {limit:,}")
        return value

    def text_or_none(self, key: str, *, most: int | None = None) -> str | None:
        """Return a string, or None if it is absent."""
        return self.text(key, most=most) if self.has(key) else None

    def integer(self, key: str) -> int:
        """Return a whole number of at most 64 bits."""
        value = self.value(key)
        if isinstance(value, bool) or not isinstance(value, int):
            self.refuse(key, f"{quoted(value)} is not a whole number")
        try:
            return checked_int(value, "it")
        except InvalidValue as error:
            self.refuse(key, str(error))

    def integer_or_none(self, key: str) -> int | None:
        """Return a whole number, or None if it is absent."""
        return self.integer(key) if self.has(key) else None

    def truth(self, key: str) -> bool:
        """Return true or false."""
        value = self.value(key)
        if not isinstance(value, bool):
            self.refuse(key, f"{quoted(value)} is neither true nor false")
        return value

    def one_of(self, key: str, allowed: Collection[str]) -> str:
        """Return a string that is one of ``allowed``."""
        value = self.value(key)
        if not isinstance(value, str) or value not in allowed:
            self.refuse(key, f"{quoted(value)} is not known: expected {' or '.join(map(repr, allowed))}")
        return value

    def mapping(self, key: str) -> dict[str, object]:
        """Return an object that can be stored as JSON."""
        value = self.value(key)
        if not isinstance(value, dict):
            self.refuse(key, f"{quoted(value)} is not an object")  # pyright: ignore[reportUnknownArgumentType]
        try:
            return checked_json(cast("dict[str, object]", value), "it")
        except InvalidValue as error:
            self.refuse(key, str(error))

    def mapping_or_none(self, key: str) -> dict[str, object] | None:
        """Return an object, or None if it is absent."""
        return self.mapping(key) if self.has(key) else None

    def items(self, key: str) -> list[object]:
        """Return a list of anything."""
        value = self.value(key)
        if not isinstance(value, list):
            self.refuse(key, f"{quoted(value)} is not a list")  # pyright: ignore[reportUnknownArgumentType]
        return cast("list[object]", value)

    def integers(self, key: str) -> tuple[int, ...]:
        """Return a list of token ids: whole numbers from 0 up, below 2**31."""
        found: list[int] = []
        for number, value in enumerate(self.items(key)):
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
                self.refuse(f"{key}[{number}]", f"{quoted(value)} is not a token id")
            found.append(value)
        return tuple(found)

    def inner(self, key: str) -> Fields:
        """Return the object at ``key``."""
        return self.inner_of(key, self.value(key))

    def objects(self, key: str) -> Iterator[Fields]:
        """Yield the objects of a list."""
        for number, value in enumerate(self.items(key)):
            yield self.inner_of(f"{key}[{number}]", value)

    def moment(self, key: str) -> datetime:
        """Return a moment in UTC: ISO 8601 with its zone."""
        text = self.text(key, most=64)
        try:
            moment = datetime.fromisoformat(text)
            if moment.tzinfo is None:
                self.refuse(key, f"{text!r} lacks its time zone")
            return moment.astimezone(UTC)
        except (ValueError, OverflowError):
            self.refuse(key, f"{text!r} is not a moment in ISO 8601")

    def moment_or_none(self, key: str) -> datetime | None:
        """Return a moment, or None if it is absent."""
        return self.moment(key) if self.has(key) else None

    def seconds_or_none(self, key: str) -> datetime | None:
        """Return a moment given in seconds since 1970, or None if it is absent."""
        if not self.has(key):
            return None
        value = self.value(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.refuse(key, f"{quoted(value)} is not a number of seconds")
        try:
            return datetime.fromtimestamp(value, UTC)
        except (ValueError, OverflowError, OSError):
            self.refuse(key, f"{quoted(value)} is not a time")

    def inner_of(self, key: str, value: object) -> Fields:
        """Return the value at ``key`` as an object."""
        if not isinstance(value, dict):
            self.refuse(key, f"{quoted(value)} is not an object")  # pyright: ignore[reportUnknownArgumentType]
        values = cast("dict[str, object]", value)
        return Fields(where=self.where, values=values, limits=self.limits, path=f"{self.path}{key}.")
