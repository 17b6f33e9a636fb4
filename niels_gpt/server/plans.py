"""From a conversation and settings to the request for a reply and all that is stored of it beforehand."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from niels_gpt.conversation.context import (
    CONTEXT_RULE,
    Fitted,
    PathMessage,
    prompt_hash,
    system_of,
)
from niels_gpt.conversation.conversation import SeedSource, fit_turn, recorded_rule
from niels_gpt.conversation.settings import Settings
from niels_gpt.server.errors import ApiError
from sessions import Generation, Message, NewGeneration

if TYPE_CHECKING:
    from niels_gpt.conversation.model import ChatModel
    from niels_gpt.decoding.request import GenerationRequest

# What decides a reply in addition to the checkpoint's fingerprint: by the kernels, the version of their
# arithmetic alone; by torch, whatever may change its last bits.
_OF_KERNELS = ("path", "weights", "kernel_version", "context_rule")
_OF_TORCH = ("path", "device", "torch", "cpu", "threads", "dtype", "context_rule")


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """A message that a request brings along."""

    role: str
    content: str
    status: str = "complete"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A reply that can be asked for; `generation` is None where nothing is stored of it."""

    request: GenerationRequest
    generation: NewGeneration | None


def system_fingerprint(checkpoint: str, environment: Mapping[str, object]) -> str:
    """Return the digest of everything that decides a reply to one request.

    Args:
        checkpoint: The fingerprint of weights, config, tokenizer and template.
        environment: What is recorded of a reply's circumstances, the rule for the context included.

    """
    names = _OF_KERNELS if environment.get("path") == "kernels" else _OF_TORCH
    text = "\0".join([checkpoint, *(f"{name}={environment.get(name)!r}" for name in names)])
    return "fp_" + hashlib.sha256(f"niels-gpt system 1\0{text}".encode()).hexdigest()[:24]


class Planner:
    """Plans replies of one model; `checkpoint_id` is the store's id of it."""

    def __init__(self, model: ChatModel, checkpoint_id: int) -> None:
        self.model = model
        self.checkpoint_id = checkpoint_id
        self.environment: dict[str, object] = {**model.environment, "context_rule": CONTEXT_RULE}
        self.fingerprint = system_fingerprint(model.checkpoint["fingerprint"], self.environment)

    def plan(
        self,
        path: Sequence[PathMessage],
        content: str,
        settings: Settings,
        source: SeedSource,
        *,
        forced_ids: tuple[int, ...] = (),
        asked: Mapping[str, object] | None = None,
    ) -> Plan:
        """Plan the reply to a message after a path of messages; `asked` is stored along with it.

        Raises MessageTooLong, ChatError.
        """
        fitted = self._fit(path, content, settings)
        seed = self.model.reply_seed(source.session_seed, source.turn, source.attempt)
        request = self.model.request(
            prompt_ids=fitted.prompt_ids, settings=settings, seed=seed, forced_ids=forced_ids
        )
        self._check(request)
        sampling = settings.stored()
        max_new_tokens = sampling.pop("max_new_tokens")
        generation = NewGeneration(
            checkpoint_id=self.checkpoint_id,
            seed=seed,
            attempt=source.attempt,
            sampling=sampling,
            max_new_tokens=int(max_new_tokens),
            prompt_hash=prompt_hash(fitted.prompt_ids),
            trimmed_turns=fitted.trimmed_turns,
            forced_ids=forced_ids,
            environment={
                **self.environment,
                "seed_source": asdict(source),
                **({} if asked is None else {"asked": dict(asked)}),
            },
        )
        return Plan(request=request, generation=generation)

    def again(self, path: Sequence[Message], user: Message, generation: Generation) -> GenerationRequest:
        """Return the request of a stored generation.

        Raises ApiError where this server would give another reply, ChatError for settings that are damaged.
        """
        try:
            settings = Settings.from_stored(
                {**generation.sampling, "max_new_tokens": generation.max_new_tokens}, seed=0
            )
        except ValueError as error:
            raise ApiError(409, f"the reply's settings are damaged: {error}") from error
        fitted = self._fit(path, user.content, settings, rule=recorded_rule(generation))
        same = generation.checkpoint_id == self.checkpoint_id
        if not same or self.fingerprint != self.fingerprint_of(generation):
            raise ApiError(
                409,
                "this reply was begun under another model or another version of its arithmetic, so it cannot "
                "be continued exactly; ask for another reply",
                code="fingerprint_mismatch",
            )
        if prompt_hash(fitted.prompt_ids) != generation.prompt_hash:
            raise ApiError(
                409, "the messages before this reply give another prompt now; ask for another reply"
            )
        return self.model.request(
            prompt_ids=fitted.prompt_ids,
            settings=settings,
            seed=generation.seed,
            forced_ids=generation.forced_ids,
        )

    def fingerprint_of(self, generation: Generation) -> str:
        """Return the system fingerprint of a generation of this checkpoint."""
        return system_fingerprint(self.model.checkpoint["fingerprint"], generation.environment)

    def raw(self, prompt_ids: tuple[int, ...], settings: Settings, source: SeedSource) -> Plan:
        """Plan the continuation of a text that is not a conversation; nothing of it is stored."""
        seed = self.model.reply_seed(source.session_seed, source.turn, source.attempt)
        request = self.model.request(prompt_ids=prompt_ids, settings=settings, seed=seed)
        # The template's own sequences end a turn; a text that is continued has none.
        request = replace(request, stop_sequences=tuple(text.encode() for text in settings.stop))
        self._check(request)
        return Plan(request=request, generation=None)

    def _check(self, request: GenerationRequest) -> None:
        """Raise ApiError for what the decoder would refuse, before anything is stored or sent."""
        room, given = self.model.context_length, len(request.prompt_ids) + len(request.forced_ids)
        if given >= room:
            raise ApiError(
                400,
                f"the prompt has {given} tokens, and this model reads {room - 1} at most",
                code="context_length_exceeded",
            )
        request.within(self.model.tokenizer.vocab_size)

    def _fit(
        self, path: Sequence[PathMessage], content: str, settings: Settings, *, rule: int = CONTEXT_RULE
    ) -> Fitted:
        return fit_turn(self.model, settings, path, content, system=system_of(path), rule=rule)
