"""What the endpoints share: the store, the model, the engine and the replies of one server."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import anyio
from fastapi import Request

from engine import Engine
from niels_gpt.conversation.settings import Settings
from niels_gpt.server.errors import ApiError
from niels_gpt.server.metrics import Metrics
from niels_gpt.server.options import ServeOptions
from niels_gpt.server.plans import ServerPlanner
from niels_gpt.server.replies import Replies
from niels_gpt.server.requests import SamplingFields
from sessions import Store

if TYPE_CHECKING:
    from niels_gpt.decoding.backend import Backend

_SAME_NAME = (
    "temperature",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
)


@dataclass(kw_only=True)
class ServerState:
    """Everything that a running server has."""

    options: ServeOptions
    store: Store
    model: Backend
    engine: Engine[Any, Any]
    planner: ServerPlanner
    replies: Replies
    metrics: Metrics
    settings: Settings
    """What a request leaves open, and what a new session begins with."""
    judging: anyio.Semaphore
    """Lets one replay run at a time."""

    @property
    def model_id(self) -> str:
        """The model's name for clients: that of its file."""
        return self.options.chat.checkpoint.stem

    def check_model(self, name: str | None) -> None:
        """Raise ApiError for the name of another model."""
        if name is not None and name != self.model_id:
            raise ApiError(
                404,
                f"unknown model {name[:80]!r}; this server has {self.model_id!r}",
                code="model_not_found",
                param="model",
            )

    def settings_of(self, body: SamplingFields, max_new_tokens: int | None) -> Settings:
        """Return the settings of a request. Raises ApiError for a token that the model does not have."""
        given: dict[str, Any] = {
            name: value for name in _SAME_NAME if (value := getattr(body, name)) is not None
        }
        if body.top_k is not None:
            given["top_k"] = body.top_k if body.top_k > 0 else None
        if body.top_p is not None:
            given["top_p"] = body.top_p if body.top_p < 1 else None
        if max_new_tokens is not None:
            given["max_new_tokens"] = max_new_tokens
        return replace(
            self.settings,
            **given,
            seed=secrets.randbits(53) if body.seed is None else body.seed,
            stop=body.stops,
            logit_bias=self._logit_bias(body),
        )

    def _logit_bias(self, body: SamplingFields) -> tuple[tuple[int, float], ...]:
        found: list[tuple[int, float]] = []
        for key, bias in (body.logit_bias or {}).items():
            if not key.isascii() or not key.isdecimal() or int(key[:10]) >= self.model.tokenizer.vocab_size:
                raise ApiError(
                    400,
                    f"logit_bias names {key[:40]!r}, expected token ids from 0 to "
                    f"{self.model.tokenizer.vocab_size - 1}",
                    param="logit_bias",
                )
            found.append((int(key), bias))
        # In order, so that the record of equal requests is equal.
        return tuple(sorted(dict(found).items()))


def state_of(request: Request) -> ServerState:
    """Return the state of the server that a request came to."""
    return request.app.state.server
