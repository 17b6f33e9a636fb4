"""Events of a job as frozen values, and their JSON lines.

Events have no behaviour and hold no live objects: each states one thing that is already true. Every job has
`seq` 0, 1, 2, ... without a gap and exactly one terminal event, the last. `at` is `time.monotonic()` seconds
(or the clock given to the engine): good for differences within one process, not a date.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal, cast, get_args

from engine.errors import EventFormatError

FinishReason = Literal["stop", "length", "context"]
FINISH_REASONS: tuple[str, ...] = get_args(FinishReason)
CancelCause = Literal["requested", "deadline", "abandoned", "closing"]
FailureScope = Literal["job", "batch", "engine"]


@dataclass(frozen=True, kw_only=True, slots=True)
class JobQueued:
    """The engine accepted a request; it waits for a place in the batch."""

    job_id: str
    seq: int
    at: float


@dataclass(frozen=True, kw_only=True, slots=True)
class JobStarted:
    """The job left the queue and was handed to the compute thread."""

    job_id: str
    seq: int
    at: float


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenGenerated:
    """One token was decoded: its id, the text it completed (may be empty), its index in the reply from 0."""

    job_id: str
    seq: int
    at: float
    token_id: int
    text: str
    index: int


@dataclass(frozen=True, kw_only=True, slots=True)
class JobDone:
    """The reply is complete and its sequence released; `receipt` is the decoder's account of it."""

    job_id: str
    seq: int
    at: float
    reason: FinishReason
    receipt: Mapping[str, object]


@dataclass(frozen=True, kw_only=True, slots=True)
class JobCancelled:
    """The job was stopped before its end, its sequence released; `receipt` is empty if it never started.

    `cause`: "requested" by `Job.cancel`, past its "deadline", "abandoned" by its last follower, or the engine
    is "closing".
    """

    job_id: str
    seq: int
    at: float
    cause: CancelCause
    receipt: Mapping[str, object]


@dataclass(frozen=True, kw_only=True, slots=True)
class JobFailed:
    """The job ended with an error: its message and the name of its class.

    `scope`: the error concerns this "job" alone, the whole "batch", whose jobs all failed with it, or the
    "engine", which has ended.
    """

    job_id: str
    seq: int
    at: float
    error: str
    kind: str
    scope: FailureScope


Event = JobQueued | JobStarted | TokenGenerated | JobDone | JobCancelled | JobFailed
TerminalEvent = JobDone | JobCancelled | JobFailed

# The name in JSON is the name of the class.
EVENT_TYPES: Mapping[str, type[Event]] = {
    "JobQueued": JobQueued,
    "JobStarted": JobStarted,
    "TokenGenerated": TokenGenerated,
    "JobDone": JobDone,
    "JobCancelled": JobCancelled,
    "JobFailed": JobFailed,
}
TERMINAL_EVENTS: tuple[type[Event], ...] = (JobDone, JobCancelled, JobFailed)

_JSON_TYPES: Mapping[str, tuple[type, ...]] = {
    "job_id": (str,),
    "seq": (int,),
    "at": (int, float),
    "token_id": (int,),
    "text": (str,),
    "index": (int,),
    "reason": (str,),
    "receipt": (dict,),
    "cause": (str,),
    "error": (str,),
    "kind": (str,),
    "scope": (str,),
}
_WORDS: Mapping[str, tuple[str, ...]] = {
    "reason": FINISH_REASONS,
    "cause": get_args(CancelCause),
    "scope": get_args(FailureScope),
}


def to_json(event: Event) -> str:
    """Return the event as one line of ASCII JSON without the line end: `{"event": "JobQueued", ...}`."""
    record: dict[str, object] = {"event": type(event).__name__}
    for field in fields(event):
        record[field.name] = getattr(event, field.name)
    return json.dumps(record, allow_nan=False)


def from_json(line: str) -> Event:
    """Return the event that `to_json` wrote; `EventFormatError` (a `ValueError`) for anything else."""
    try:
        parsed: object = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise EventFormatError(f"not a line of JSON: {line[:200]!r} ({error})") from error
    if not isinstance(parsed, dict):
        raise EventFormatError(f"expected a JSON object with an 'event' key, got {line[:200]!r}")
    record = cast("dict[str, object]", parsed)
    name = record.pop("event", None)
    event_type = EVENT_TYPES.get(name) if isinstance(name, str) else None
    if event_type is None:
        raise EventFormatError(f"unknown event {name!r}; expected one of {', '.join(EVENT_TYPES)}")
    expected = [field.name for field in fields(event_type)]
    if sorted(record) != sorted(expected):
        raise EventFormatError(f"{name} has the fields {expected}, got {sorted(record)}")
    for field, value in record.items():
        _check_field(field, value)
    record["at"] = float(cast("float", record["at"]))
    return event_type(**record)  # pyright: ignore[reportArgumentType]  # names and types were checked above


def _check_field(field: str, value: object) -> None:
    """Raise `EventFormatError` unless `value` is what an event may hold in `field`."""
    # JSON's true and false arrive as bool, which Python counts as int.
    valid = isinstance(value, _JSON_TYPES[field]) and not isinstance(value, bool)
    if valid and field in ("seq", "index"):
        valid = cast("int", value) >= 0
    if valid and field == "at":
        valid = _is_finite(cast("float", value))
    if valid and field in _WORDS:
        valid = value in _WORDS[field]
    if not valid:
        raise EventFormatError(
            f"field {field!r} cannot be {value!r}; see the event classes for what it holds"
        )


def _is_finite(number: float) -> bool:
    """Return whether a parsed JSON number is a finite float (1e999 and very long integers are not)."""
    try:
        return math.isfinite(float(number))
    except OverflowError:
        return False


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON value")
