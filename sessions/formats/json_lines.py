"""Encode values as lines of JSON for export."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from typing import Protocol, cast

# Beyond what JSON escapes anyway: DEL and C1, separators of lines, direction marks, lone surrogates. They
# control terminals, and many readers treat some of them as the end of a line.
_STEERING = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Output(Protocol):
    """The destination of an export, such as an open text file or a terminal."""

    def write(self, text: str, /) -> object:
        """Write a piece of text."""
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
