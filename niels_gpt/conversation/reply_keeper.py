"""Store what became of a reply, and keep the one that the store cannot take at the moment.

The store may be locked by another program, or its disk full. What is kept is tried again: a session does that
before every later change, and a front end does it from time to time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Literal

import anyio
import anyio.to_thread

from sessions import Message, Store, StoreClosed, StoreError, StoreUnavailable

UNSAVED_ID = 0
"""The id of the message of a reply that is not stored yet."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A reply as it came out of the engine; `reason` "cancelled" makes it a stopped one."""

    content: str
    token_ids: tuple[int, ...]
    reason: str
    receipt: Mapping[str, object]
    timings: Mapping[str, object]

    @property
    def status(self) -> Literal["complete", "cancelled"]:
        """The status of its message."""
        return "cancelled" if self.reason == "cancelled" else "complete"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a generation: a reply, or the error in its place."""

    generation_id: int
    reply: Reply | None = None
    error: str = ""
    trouble: str = ""
    """Why the store could not take it."""


class ReplyKeeper:
    """Stores outcomes off the event loop; `kept` is the one that the store could not take, if any."""

    def __init__(self, store: Store, limiter: anyio.CapacityLimiter) -> None:
        """`limiter` keeps the calls of the store to one at a time."""
        self._store = store
        self._limiter = limiter
        self.kept: Outcome | None = None

    async def conclude(self, outcome: Outcome) -> Message | None:
        """Store an outcome, or keep it.

        Returns:
            The message of the reply; None for an outcome that is kept, and for a failure.

        Raises:
            StoreClosed: Nothing changed.
            StoreError: The store refused it for good, so nothing is kept.
        """
        try:
            message = await anyio.to_thread.run_sync(partial(self._write, outcome), limiter=self._limiter)
        except StoreClosed:
            raise
        except StoreUnavailable as error:
            self.kept = replace(outcome, trouble=str(error))
            return None
        except StoreError:
            self.kept = None
            raise
        self.kept = None
        return message

    def _write(self, outcome: Outcome) -> Message | None:
        reply = outcome.reply
        if reply is None:
            self._store.fail_generation(outcome.generation_id, error=outcome.error)
            return None
        return self._store.finish_reply(
            outcome.generation_id,
            content=reply.content,
            token_ids=reply.token_ids,
            status=reply.status,
            finish_reason=reply.reason,
            receipt=reply.receipt,
            timings=reply.timings,
        )


def unsaved_message(reply: Reply, path: Sequence[Message]) -> Message:
    """Return a reply that is not stored as the message that it will be, after the last one of the user."""
    asked = next(message for message in reversed(path) if message.role == "user")
    return Message(
        id=UNSAVED_ID,
        session_id=asked.session_id,
        parent_id=asked.id,
        position=asked.position + 1,
        role="assistant",
        content=reply.content,
        token_ids=reply.token_ids,
        status=reply.status,
        digest="",
        created=datetime.now(UTC),
    )
