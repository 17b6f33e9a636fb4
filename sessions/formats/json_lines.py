"""Where a format writes to, and how a value becomes a line of JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from typing import Protocol, cast

# Beyond what JSON escapes anyway: DEL and C1, separators of lines, direction marks, lone surrogates. They
# steer terminals, and many readers take some of them for the end of a line.
_STEERING = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Output(Protocol):
    """An open text file, a terminal, a test's list."""

    def write(self, text: str, /) -> object:
        """Take a piece of text."""
        ...


def json_line(value: object) -> str:
    """Return a record, mapping or list as one line of JSON, without its end; moments are ISO 8601 in UTC."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain)
    return _STEERING.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, Mapping):
        return dict(cast("Mapping[str, object]", value))
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    raise TypeError(f"{value!r} has no JSON form")
