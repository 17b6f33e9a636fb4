"""Plan the replies of a server: those of conversations, of plain texts, and of its own records."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from niels_gpt.conversation.context import CONTEXT_RULE, PathMessage, prompt_hash
from niels_gpt.conversation.planning import Planner, SeedSource, fit_recorded, recorded_settings, request_for
from niels_gpt.conversation.settings import Settings
from niels_gpt.server.errors import ApiError
from sessions import Generation

if TYPE_CHECKING:
    from niels_gpt.decoding.backend import Backend
    from niels_gpt.decoding.request import GenerationRequest

MAKER = "niels-serve"
"""What is recorded as `program` of a reply that a server makes."""

# What decides a reply in addition to the checkpoint's fingerprint: by the kernels, the version of their
# arithmetic alone; by torch, whatever may change its last bits.
_OF_KERNELS = ("path", "weights", "kernel_version", "context_rule")
_OF_TORCH = ("path", "device", "torch", "cpu", "threads", "dtype", "context_rule")


def system_fingerprint(checkpoint: str, environment: Mapping[str, object]) -> str:
    """Return the digest of everything that decides a reply to one request.

    Args:
        checkpoint: The fingerprint of weights, config, tokenizer and template.
        environment: What is recorded of a reply's circumstances, the rule for the context included.

    """
    names = _OF_KERNELS if environment.get("path") == "kernels" else _OF_TORCH
    text = "\0".join([checkpoint, *(f"{name}={environment.get(name)!r}" for name in names)])
    return "fp_" + hashlib.sha256(f"niels-gpt system 1\0{text}".encode()).hexdigest()[:24]


class ServerPlanner(Planner):
    """Plans the replies of a server, whose fingerprint says whether an earlier reply can be made again."""

    def __init__(self, model: Backend, checkpoint_id: int) -> None:
        super().__init__(model, checkpoint_id)
        self.environment = {**self.environment, "program": MAKER}
        self.fingerprint = system_fingerprint(model.checkpoint["fingerprint"], self.environment)

    def fingerprint_of(self, generation: Generation) -> str:
        """Return the system fingerprint of a generation of this checkpoint."""
        return system_fingerprint(self.model.checkpoint["fingerprint"], generation.environment)

    def again(self, path: Sequence[PathMessage], content: str, generation: Generation) -> GenerationRequest:
        """Return the request of a stored generation.

        Args:
            path: The messages before the user's.
            content: The user's message.
            generation: How its reply was asked for.

        Raises:
            ApiError: This server would give another reply.
            ChatError: The recorded settings are damaged, or leave no room.
        """
        # Its prompt is made again under its own rule, so one that was begun under an older rule is the same.
        environment = {**generation.environment, "context_rule": CONTEXT_RULE}
        fingerprint = system_fingerprint(self.model.checkpoint["fingerprint"], environment)
        if generation.checkpoint_id != self.checkpoint_id or fingerprint != self.fingerprint:
            raise ApiError(
                409,
                "this reply was begun under another model or another version of its arithmetic, so it cannot "
                "be continued exactly; ask for another reply",
                code="fingerprint_mismatch",
            )
        settings = recorded_settings(generation)
        prompt_ids = fit_recorded(self.model, settings, path, content, generation).prompt_ids
        if prompt_hash(prompt_ids) != generation.prompt_hash:
            raise ApiError(
                409, "the messages before this reply give another prompt now; ask for another reply"
            )
        return request_for(
            self.model, prompt_ids, settings, seed=generation.seed, forced_ids=generation.forced_ids
        )

    def raw(self, prompt_ids: tuple[int, ...], settings: Settings, attempt: int) -> GenerationRequest:
        """Return the request to continue a text that is not a conversation; nothing of it is stored."""
        source = SeedSource(session_seed=settings.seed, turn=0, attempt=attempt)
        request = request_for(self.model, prompt_ids, settings, seed=source.seed)
        # The template's own sequences end a turn; a text that is continued has none.
        return replace(request, stop_sequences=tuple(text.encode() for text in settings.stop))
