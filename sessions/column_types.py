"""Column types that give back exactly what they were given, on every database.

``FaithfulText`` for text with NUL in it, ``UtcTime`` for moments, ``BigKey`` for keys.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, Integer, Text
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

from sessions.errors import StoreDamaged

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_ESCAPED = re.compile("\x1a(.?)", re.DOTALL)


class FaithfulText(TypeDecorator[str]):
    """Text in which NUL survives: PostgreSQL refuses it, SQLite's own functions stop at it.

    NUL is kept as SUBSTITUTE and "0", SUBSTITUTE itself doubled; everything else stands as it is.
    """

    impl: TypeEngine[Any] | type[TypeEngine[Any]] = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        """Escape on the way in."""
        return None if value is None else value.replace("\x1a", "\x1a\x1a").replace("\0", "\x1a0")

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        """Undo the escape; a half escape at the end, where SQL has cut the text, is dropped."""
        return None if value is None else _ESCAPED.sub(_unescaped, value)


class UtcTime(TypeDecorator[datetime]):
    """An aware moment as whole microseconds since 1970: sorts everywhere, depends on no server's zone."""

    impl: TypeEngine[Any] | type[TypeEngine[Any]] = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:  # noqa: ARG002
        """Count microseconds."""
        return None if value is None else (value - _EPOCH) // _MICROSECOND

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Come back in UTC."""
        return None if value is None else _EPOCH + value * _MICROSECOND


# SQLite makes a key its own row id, and counts it up, only where the type is spelled INTEGER.
BigKey = BigInteger().with_variant(Integer, "sqlite")


def read_json(text: str) -> object:
    """Return the value of a JSON column; StoreDamaged for one that is no JSON, since only JSON is written."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StoreDamaged(
            f"a value in the store is damaged ({error}): restore a backup, or recover what can be read"
        ) from error


def _unescaped(match: re.Match[str]) -> str:
    return {"0": "\0", "\x1a": "\x1a"}.get(match[1], "")
