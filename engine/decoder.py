"""The interface between the engine and a model: two protocols, and a plain `Step`.

The engine calls a decoder on one thread of its own, always the same, never two calls at once, so a decoder
needs no locks. Requests and sequences are opaque here: the engine passes the first in and the second back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

RequestT_contra = TypeVar("RequestT_contra", contravariant=True)
SequenceT = TypeVar("SequenceT")


class StepLike(Protocol):
    """The result of one step for one sequence; any object with these attributes will do."""

    @property
    def tokens(self) -> Sequence[tuple[int, str]]:
        """(token id, text delta) pairs, oldest first; empty while the prompt is still being prefilled.

        The reply's text is by definition the concatenation of the deltas.
        """
        ...

    @property
    def finish(self) -> str | None:
        """`"stop"`, `"length"` or `"context"` ends the job after these tokens; None continues it."""
        ...

    @property
    def error(self) -> Exception | None:
        """Not None: fails this job alone, after these tokens."""
        ...


@dataclass(frozen=True, slots=True)
class Step:
    """The plain `StepLike`."""

    tokens: Sequence[tuple[int, str]] = ()
    finish: str | None = None
    error: Exception | None = None


class Decoder(Protocol[RequestT_contra, SequenceT]):
    """A model to drive. Every call happens on the engine's compute thread."""

    def admit(self, request: RequestT_contra) -> SequenceT:
        """Return the state of a new sequence. Cheap: the prompt is prefilled by `advance`, chunk by chunk.

        Whatever it raises fails that job alone.
        """
        ...

    def advance(self, sequences: Sequence[SequenceT]) -> Sequence[StepLike]:
        """Advance all sequences by one step; one result each, in the same order.

        The batch holds the running sequences: it is never empty, and it changes from step to step. Whatever
        this raises fails every job of the batch; a fault of one sequence belongs in its step's `error`.
        """
        ...

    def release(self, sequence: SequenceT) -> Mapping[str, object]:
        """Free a sequence and return its receipt, which goes onto the job's terminal event.

        Called exactly once for each admitted sequence, whether it finished, failed or was cancelled. The
        receipt must be made of JSON values; a release that raises fails that job.
        """
        ...
