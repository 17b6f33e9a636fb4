"""Check values before they enter the store.

A value that is accepted comes back exactly as it was, from every database. NUL characters are accepted (see
``column_types.FaithfulText``; a byte-level model can sample one). Lone surrogates, which have no UTF-8 form,
integers beyond 64 bits, and values without a JSON form (NaN, objects) are refused.
"""

from __future__ import annotations

import json
import operator
import re
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import SupportsIndex

from sessions.errors import InvalidName, InvalidValue

NAME_LIMIT = 200
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_DIGEST = re.compile("[0-9a-f]{64}")
# An embedding or override mark in a name reorders the letters that are shown around it.
_BIDI_MARKS = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})


def checked_name(name: str) -> str:
    """Return ``name`` if it can name a session; raise InvalidName with the reason otherwise."""
    if not name:
        raise InvalidName(name, "it is empty; give 1 to 200 characters")
    if len(name) > NAME_LIMIT:
        raise InvalidName(name, f"it has {len(name)} characters; at most {NAME_LIMIT} are allowed")
    if name != name.strip():
        raise InvalidName(name, "it begins or ends with a blank; leave the blank out")
    for character in name:
        if unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"}:
            raise InvalidName(name, f"it contains the control character {character!r}; leave it out")
        if unicodedata.bidirectional(character) in _BIDI_MARKS:
            raise InvalidName(name, f"it contains the direction mark {character!r}; leave it out")
    return name


def checked_text(text: str, what: str) -> str:
    """Return ``text`` if it has a UTF-8 form; ``what`` names it in the error (InvalidValue)."""
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance] - imports hold anything
        raise InvalidValue(f"{what} is {text!r}: expected text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidValue(
            f"{what} contains the lone surrogate {text[error.start]!r} at position {error.start}, "
            "which is not a character: remove it"
        ) from error
    return text


def checked_label(text: str, what: str) -> str:
    """Return ``text`` if it has a UTF-8 form, no NUL, and at most 200 characters; InvalidValue otherwise."""
    checked_text(text, what)
    if len(text) > NAME_LIMIT or "\0" in text:
        raise InvalidValue(f"{what} is {text[:80]!r}: expected at most {NAME_LIMIT} characters without NUL")
    return text


def checked_int(value: SupportsIndex, what: str, *, least: int = _INT64_MIN) -> int:
    """Return ``value`` as an int if it lies in ``least`` .. 2**63 - 1; raise InvalidValue otherwise."""
    try:
        number = operator.index(value)
    except TypeError as error:
        raise InvalidValue(f"{what} is {value!r}: expected a whole number") from error
    if not least <= number <= _INT64_MAX:
        raise InvalidValue(f"{what} is {number}: expected {least} to {_INT64_MAX}")
    return number


def checked_token_ids(token_ids: Sequence[SupportsIndex], what: str = "the token ids") -> tuple[int, ...]:
    """Return the ids as plain ints; raise InvalidValue for one that is negative or beyond 64 bits."""
    if isinstance(token_ids, str | bytes) or not hasattr(token_ids, "__iter__"):
        raise InvalidValue(f"{what} are {token_ids!r}: expected a list of token ids")
    return tuple(checked_int(token_id, "a token id", least=0) for token_id in token_ids)


def checked_json(value: Mapping[str, object], what: str) -> dict[str, object]:
    """Return a deep copy of ``value`` in plain JSON types; tuples become lists, mappings dictionaries."""
    if not isinstance(value, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] - imports hold anything
        raise InvalidValue(f"{what} is {value!r}: expected an object")
    try:
        text = json.dumps(dict(value), allow_nan=False, ensure_ascii=False, default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidValue(f"{what} cannot be written as JSON ({error}): give plain values") from error
    copy: dict[str, object] = json.loads(checked_text(text, what))
    return copy


def checked_digest(digest: str, what: str) -> str:
    """Return ``digest`` if it is 64 lowercase hexadecimal digits; raise InvalidValue otherwise."""
    if not isinstance(digest, str) or _DIGEST.fullmatch(digest) is None:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidValue(f"{what} is {digest!r}: expected 64 hexadecimal digits")
    return digest


def checked_moment(moment: datetime, what: str) -> datetime:
    """Return ``moment`` if it is a datetime with a time zone; raise InvalidValue otherwise."""
    if not isinstance(moment, datetime) or moment.tzinfo is None:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidValue(f"{what} is {moment!r}: expected a moment with its time zone")
    return moment


def storable_text(text: str) -> str:
    r"""Return ``text`` with lone surrogates spelled out (``\udc80``), for text that must never be refused."""
    return text.encode("utf-8", "backslashreplace").decode()


def _plain(value: object) -> dict[object, object]:
    if isinstance(value, Mapping):
        return dict(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    raise TypeError(f"{value!r} has no JSON form")
