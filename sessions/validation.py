"""Which values may enter the store; checked before a transaction begins.

The rule is: what is accepted comes back exactly as it was, from every database. NUL characters are accepted
(see ``columns.FaithfulText``; a byte-level model can sample one). Lone surrogates, which have no UTF-8
form, integers beyond 64 bits, and JSON that is not JSON (NaN, objects) are refused.
"""

from __future__ import annotations

import json
import operator
import unicodedata
from collections.abc import Mapping, Sequence
from typing import SupportsIndex

from sessions.errors import InvalidName, InvalidValue
from sessions.records import NewGeneration

NAME_LIMIT = 200
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
# A name with an embedding or override mark shows other names' letters around it in another order.
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
            "which is no character: remove it"
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


def checked_token_ids(token_ids: Sequence[SupportsIndex]) -> list[int]:
    """Return the ids as a list of ints; raise InvalidValue for one that is negative or beyond 64 bits."""
    return [checked_int(token_id, "a token id", least=0) for token_id in token_ids]


def checked_json(value: Mapping[str, object], what: str) -> dict[str, object]:
    """Return a deep copy of ``value`` in plain JSON types; tuples become lists, mappings dictionaries."""
    try:
        text = json.dumps(dict(value), allow_nan=False, ensure_ascii=False, default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidValue(f"{what} cannot be written as JSON ({error}): give plain values") from error
    copy: dict[str, object] = json.loads(checked_text(text, what))
    return copy


def checked_generation(asked: NewGeneration) -> NewGeneration:
    """Return ``asked`` in plain types; raise InvalidValue for the first field that cannot be stored."""
    return NewGeneration(
        checkpoint_id=checked_int(asked.checkpoint_id, "the checkpoint id"),
        seed=checked_int(asked.seed, "the reply's seed"),
        attempt=checked_int(asked.attempt, "the attempt", least=0),
        sampling=checked_json(asked.sampling, "the sampling"),
        max_new_tokens=checked_int(asked.max_new_tokens, "max_new_tokens", least=0),
        prompt_hash=checked_label(asked.prompt_hash, "the prompt hash"),
        trimmed_turns=checked_int(asked.trimmed_turns, "trimmed_turns", least=0),
        environment=checked_json(asked.environment, "the environment"),
        forced_ids=tuple(checked_token_ids(asked.forced_ids)),
    )


def storable_text(text: str) -> str:
    r"""Return ``text`` with lone surrogates spelled out (``\udc80``), for what must never be refused."""
    return text.encode("utf-8", "backslashreplace").decode()


def _plain(value: object) -> dict[object, object]:
    if isinstance(value, Mapping):
        return dict(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    raise TypeError(f"{value!r} has no JSON form")
