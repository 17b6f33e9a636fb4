"""Column types that return exactly what they were given, on every database.

``FaithfulText`` for text with NUL in it, ``UtcTime``, ``Flag``, ``BigKey`` for keys. A stored value that a
type cannot decode is returned as it is: ``sessions.fields`` then names the row and the field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, Boolean, Integer, Text
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_ESCAPED = re.compile("\x1a(.?)", re.DOTALL)


class FaithfulText(TypeDecorator[str]):
    """Text in which NUL survives: PostgreSQL refuses it, SQLite's own functions stop at it.

    NUL is stored as SUBSTITUTE and "0", SUBSTITUTE itself doubled, every other character as it is.
    """

    impl: TypeEngine[Any] | type[TypeEngine[Any]] = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        """Escape NUL and SUBSTITUTE."""
        return None if value is None else value.replace("\x1a", "\x1a\x1a").replace("\0", "\x1a0")

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:  # noqa: ARG002
        """Undo the escape; half an escape at the end, where SQL has cut the text, is dropped."""
        return _ESCAPED.sub(_unescaped, value) if isinstance(value, str) else value


class UtcTime(TypeDecorator[datetime]):
    """An aware moment as whole microseconds since 1970: sorts everywhere, depends on no server's zone."""

    impl: TypeEngine[Any] | type[TypeEngine[Any]] = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:  # noqa: ARG002
        """Count microseconds."""
        return None if value is None else (value - _EPOCH) // _MICROSECOND

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:  # noqa: ARG002
        """Return the moment in UTC."""
        if not isinstance(value, int):
            return value
        try:
            return _EPOCH + value * _MICROSECOND
        except OverflowError:
            return value


class Flag(TypeDecorator[bool]):
    """A truth value; a stored number other than 0 and 1 is returned as it is."""

    impl: TypeEngine[Any] | type[TypeEngine[Any]] = Boolean
    cache_ok = True

    def result_processor(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        dialect: Dialect,  # noqa: ARG002
        coltype: object,  # noqa: ARG002
    ) -> Callable[[Any], Any]:
        """Return the decoder of stored values."""
        return _decoded_flag


def _decoded_flag(value: Any) -> Any:
    return {0: False, 1: True}.get(value, value) if isinstance(value, int) else value


# SQLite makes a key its own row id, and counts it up, only where the type is spelled INTEGER.
BigKey = BigInteger().with_variant(Integer, "sqlite")


def read_json(text: Any) -> object:
    """Return the value of a JSON column; of one that holds no JSON, the text as it is."""
    try:
        return json.loads(text, parse_constant=_refused)
    except (ValueError, TypeError, RecursionError):
        return text


def decoded_text(raw: bytes) -> str | bytes:
    """Return text from SQLite's bytes; the bytes themselves where they are not UTF-8."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _unescaped(match: re.Match[str]) -> str:
    return {"0": "\0", "\x1a": "\x1a"}.get(match[1], "")


def _refused(constant: str) -> object:
    raise ValueError(f"{constant} is not JSON")
