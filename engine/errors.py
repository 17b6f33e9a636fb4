"""Define every error that the engine raises, under one base class.

An error that a decoder raised is never replaced: it is the `__cause__` of the error that a caller sees, and
the event has its class name.
"""

from __future__ import annotations

from collections.abc import Callable


def readable(value: object, describe: Callable[[object], str] = repr, *, limit: int = 200) -> str:
    """Return a description of any object by `repr` or `str`, cut to `limit` characters; never raise.

    Decoders raise and return objects whose own descriptions fail.
    """
    for attempt in (describe, repr):
        try:
            text = "".join(attempt(value))
        except Exception:  # noqa: BLE001, S112  # an error in foreign code must not hide the error it describes
            continue
        if text:
            return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"
    return f"<{type(value).__name__} without a readable description>"


class EngineError(Exception):
    """Base class of all errors of this package."""


class EngineClosed(EngineError):  # noqa: N818  # the name says it better
    """The engine accepts no jobs: it is not entered yet, draining, being left, or left."""


class EngineFull(EngineError):  # noqa: N818  # the name says it better
    """The queue is full: `limit` jobs, the engine's `max_queue`, wait for a place in the batch."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"the queue is full: max_queue={limit!r} job(s) wait for a place in the batch. Submit again once "
            "a job has ended (`await job.result()`), cancel one, or make the Engine with a larger max_queue."
        )
        self.limit = limit


class DecoderContractError(EngineError):
    """A decoder returned something that the `Decoder` protocol does not allow."""


class GenerationFailed(EngineError):  # noqa: N818  # the name says it better
    """A job failed; raised by `Job.result()` from the error that failed it.

    `job_id` is the job, `kind` the class name of the cause, and `scope` what failed with it: "job", "batch"
    or "engine", as on `JobFailed`.
    """

    def __init__(self, *, job_id: str, kind: str, error: str, scope: str) -> None:
        super().__init__(
            f"job {job_id!r} failed with {kind}: {error}. Its events up to the failure are still readable "
            "with job.events(); "
            + (
                "the engine is gone: make a new one."
                if scope == "engine"
                else "the engine still runs, so the request can be submitted again."
            )
        )
        self.job_id = job_id
        self.kind = kind
        self.scope = scope


class SubscriberLagged(EngineError):  # noqa: N818  # the name says it better
    """A subscriber of `Engine.subscribe()` was too slow: `missed` events are gone from the bounded history.

    Raised once per gap. The same iterator continues with the oldest event that is still held, and every job's
    own log (`job.events()`) is complete.
    """

    def __init__(self, missed: int) -> None:
        super().__init__(
            f"this subscriber missed {missed} event(s): it fell behind the engine's bounded history. "
            "Continue with the same iterator, or follow single jobs with job.events(): it never loses one."
        )
        self.missed = missed


class EventFormatError(EngineError, ValueError):
    """A line is not an event in JSON."""
