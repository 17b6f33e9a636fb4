"""One response as its clients see it: how it was asked for, its frames, its outcomes once it is whole."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import anyio
from pydantic import BaseModel, Field, ValidationError

from engine import Job
from niels_gpt.server.errors import ApiError
from niels_gpt.server.event_stream import Frames
from niels_gpt.server.forms import Form, FormName, Outcome, ReplyInfo, Token
from sessions import Generation, Turn

if TYPE_CHECKING:
    from niels_gpt.decoding.request import GenerationRequest


class Asked(BaseModel):
    """What is stored with a reply of how it was asked for; read back with care: imports hold anything."""

    form: FormName = "native"
    model: Annotated[str, Field(max_length=500)] = ""
    choices: Annotated[int, Field(ge=1, le=32)] = 1
    include_usage: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    instructions: str | None = None
    previous: Annotated[str, Field(max_length=200)] | None = None

    @classmethod
    def of(cls, generation: Generation) -> Asked:
        """Return what a generation holds of it; nothing for one that a terminal asked for."""
        try:
            return cls.model_validate(generation.environment.get("asked", {}))
        except ValidationError:
            return cls()


@dataclass(kw_only=True)
class Choice:
    """One of the replies of a response: its request, and its record if it is stored."""

    request: GenerationRequest
    turn: Turn | None = None
    seed: int


class Reply:
    """A response, as its clients see it: frames, and outcomes once it is whole."""

    def __init__(self, info: ReplyInfo, form: Form, outcomes: list[Outcome]) -> None:
        self.info = info
        self.form = form
        self.frames = Frames(info.id)
        self.outcomes = outcomes
        self.failure: ApiError | None = None
        self.ended = anyio.Event()
        self.jobs: list[Job] = []
        self.followers = 0
        # Choices are generated side by side but sent in turn, a token of each, so that the stream does not
        # depend on which was faster.
        self._waiting: list[deque[Token | str]] = [deque() for _ in outcomes]
        self._next = 0
        self._open(form.opening(outcomes))

    def _open(self, payloads: Any) -> None:
        for event, data in payloads:
            self.frames.append(data, event)

    def add(self, choice: int, token: Token) -> None:
        """Take the next token of a choice."""
        self._waiting[choice].append(token)
        self._advance()

    def end(self, choice: int, reason: str) -> None:
        """Take the end of a choice, once it is stored."""
        self._waiting[choice].append(reason)
        self._advance()

    def close(self) -> None:
        """End the stream."""
        if self.failure is not None:
            self._open(self.form.failure(self.failure))
        elif all(outcome.reason for outcome in self.outcomes):
            self._open(self.form.closing(self.outcomes))
        self.frames.close()
        self.ended.set()

    @property
    def whole(self) -> bool:
        """Whether every choice came to its end."""
        return all(outcome.reason for outcome in self.outcomes)

    @contextmanager
    def following(self) -> Iterator[None]:
        """Count a client; a reply that is not stored is cancelled when its last one is gone."""
        self.followers += 1
        try:
            yield
        finally:
            self.followers -= 1
            if self.followers == 0 and not self.info.stored:
                self.cancel()

    def cancel(self) -> None:
        """Stop what is still being generated."""
        for job in self.jobs:
            job.cancel()

    def _advance(self) -> None:
        count = len(self.outcomes)
        while not self.whole:
            choice = self._next
            if self.outcomes[choice].reason is None:
                if not self._waiting[choice]:
                    return
                self._send(choice, self._waiting[choice].popleft())
            self._next = (choice + 1) % count

    def _send(self, choice: int, item: Token | str) -> None:
        outcome = self.outcomes[choice]
        if isinstance(item, str):
            outcome.reason = item
            self._open(self.form.ending(choice, outcome))
            return
        outcome.tokens.append(item)
        payload = self.form.token(choice, item)
        if payload is not None:
            self.frames.append(payload[1], payload[0])
