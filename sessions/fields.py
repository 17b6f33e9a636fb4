"""Describe the fields of records: how each is checked on its way in and when it is read from a row.

A record's annotations name a kind for every field (``seed: Integer``, ``receipt: Json | None``). Rows,
records and archives are converted and checked by these kinds alone, so a new column is declared in one
record, its table and a migration, and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import blake2b
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast, get_args, get_type_hints

from sessions.errors import InvalidValue, StoreDamaged
from sessions.validation import (
    checked_digest,
    checked_int,
    checked_json,
    checked_label,
    checked_moment,
    checked_text,
    checked_token_ids,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

R = TypeVar("R", bound="DataclassInstance")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Kind:
    """A kind of value: ``check`` admits one from a caller, ``read`` one from a row, where JSON is plain.

    Both take the value and its name, return the value as the record holds it, and raise InvalidValue.
    ``missing`` stands for a column that is NULL because its row is older than the column.
    """

    check: Callable[[Any, str], Any]
    read: Callable[[Any, str], Any]
    missing: object = None


def _of_type(kind: type, expected: str) -> Callable[[Any, str], Any]:
    def read(value: Any, what: str) -> Any:
        if not isinstance(value, kind):
            raise InvalidValue(f"{what} is {_short(value)}: expected {expected}")
        return value

    return read


def one_of(choices: tuple[str, ...]) -> Kind:
    """Return the kind of texts that are one of ``choices``."""

    def check(value: Any, what: str) -> str:
        if value not in choices:
            raise InvalidValue(f"{what} is {_short(value)}: expected one of {', '.join(map(repr, choices))}")
        return value

    return Kind(check, check)


def _whole(least: int) -> Kind:
    def check(value: Any, what: str) -> int:
        return checked_int(value, what, least=least)

    return Kind(check, check)


def _read_token_ids(value: Any, what: str) -> tuple[int, ...]:
    # Millions of ids are read: three passes in C instead of a check of each.
    if not isinstance(value, list) or not set(map(type, cast("list[object]", value))) <= {int}:
        raise InvalidValue(f"{what} are {_short(cast('object', value))}: expected a list of token ids")
    ids = tuple(cast("list[int]", value))
    if ids and not 0 <= min(ids) <= max(ids) < 2**63:
        raise InvalidValue(f"{what} are {_short(ids)}: expected token ids from 0 up")
    return ids


_text = _of_type(str, "text")
_truth = _of_type(bool, "true or false")
_object = _of_type(dict, "an object")

Integer = Annotated[int, _whole(-(2**63))]
Count = Annotated[int, _whole(0)]
Truth = Annotated[bool, Kind(_truth, _truth)]
FreeText = Annotated[str, Kind(checked_text, _text)]
Label = Annotated[str, Kind(checked_label, _text)]
Digest = Annotated[str, Kind(checked_digest, checked_digest)]
Json = Annotated[Mapping[str, object], Kind(checked_json, _object)]
Parts = Annotated[Mapping[str, str], Kind(checked_json, _object)]
TokenIds = Annotated[tuple[int, ...], Kind(checked_token_ids, _read_token_ids)]
ForcedIds = Annotated[tuple[int, ...], Kind(checked_token_ids, _read_token_ids, missing=())]
Moment = Annotated[datetime, Kind(checked_moment, _of_type(datetime, "a moment"))]


@dataclass(frozen=True)
class FieldKind:
    """The kind of one field of a record, its name in messages, and whether it may be None."""

    name: str
    words: str
    kind: Kind
    optional: bool


@cache
def field_kinds(record: type[DataclassInstance]) -> tuple[FieldKind, ...]:
    """Return the kinds of a record's fields, in their order."""
    hints = get_type_hints(record, include_extras=True)
    return tuple(_field_kind(field.name, hints[field.name]) for field in fields(record))


def _field_kind(name: str, hint: Any) -> FieldKind:
    parts = get_args(hint) if NoneType in get_args(hint) else (hint,)
    (kind,) = (each for part in parts for each in getattr(part, "__metadata__", ()))
    return FieldKind(name, f"the {name.replace('_', ' ')}", kind, optional=NoneType in parts)


def checked(record: R, what: str = "") -> R:
    """Return the record in plain types.

    Args:
        record: the record, with values of any type.
        what: what it is, for the error, such as "message 5".

    Raises:
        InvalidValue: for the first field that cannot be stored so that it comes back as it was.
    """
    of = f" of {what}" if what else ""
    values: dict[str, Any] = {}
    for field in field_kinds(type(record)):
        value = getattr(record, field.name)
        absent = value is None and field.optional
        values[field.name] = None if absent else field.kind.check(value, field.words + of)
    return type(record)(**values)


def read(record: type[R], row: object) -> R:
    """Return a row as a frozen record.

    Raises:
        StoreDamaged: for a row with a value that this program never writes; names table, id and field.
    """
    values: dict[str, Any] = {}
    try:
        for field in field_kinds(record):
            value = getattr(row, field.name)
            if value is None and (field.optional or field.kind.missing is not None):
                values[field.name] = field.kind.missing
            else:
                values[field.name] = field.kind.read(value, field.words)
    except InvalidValue as error:
        raise StoreDamaged(
            f"{record.__name__.lower()} {getattr(row, 'id', '?')} in the store is damaged ({error}): "
            "restore a backup, or recover what can be read"
        ) from error
    return record(**values)


def column_values(record: DataclassInstance, **changed: object) -> dict[str, Any]:
    """Return the columns of a new row: the values of a checked record except its id, and ``changed``."""
    values = {field.name: getattr(record, field.name) for field in fields(record) if field.name != "id"}
    # JSON has lists, and a row that was just written holds what it will hold when it is read.
    return {
        name: list(cast("tuple[object]", value)) if isinstance(value, tuple) else value
        for name, value in (values | changed).items()
    }


def checksum(values: Mapping[str, object]) -> str:
    """Return 16 hex digits over the columns of a row, its id and the checksum itself left out.

    A row changed by anything but this program no longer has its checksum. It guards the columns that no
    digest covers: names, times, settings. JSON with sorted keys, moments as microseconds.
    """
    covered = {name: value for name, value in values.items() if name not in {"id", "checksum"}}
    return blake2b(_canonical(covered).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return (value - _EPOCH) // _MICROSECOND
    if isinstance(value, Mapping):
        return dict(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    raise TypeError(f"{value!r} is not a value of a row")


# Made once: json.dumps makes an encoder for every call with settings of its own.
_canonical = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain
).encode


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
