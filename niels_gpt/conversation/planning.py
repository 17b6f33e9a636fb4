"""Plan a reply: from a conversation and settings to the request and all that is stored of it beforehand.

What is stored is enough to make the same request again; the second half of this module does that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from niels_gpt.conversation.context import (
    CONTEXT_RULE,
    Fitted,
    PathMessage,
    exchanges_of,
    fit,
    prompt_hash,
    system_of,
    with_unanswered,
)
from niels_gpt.conversation.errors import ChatError, MessageTooLong
from niels_gpt.conversation.settings import Settings
from niels_gpt.rng import reply_seed
from niels_gpt.sampling import Sampling
from sessions import Generation, NewGeneration, RecordedTurn

if TYPE_CHECKING:
    from niels_gpt.decoding.backend import Backend
    from niels_gpt.decoding.request import GenerationRequest

MOST_EXAMPLES = 4
"""Earlier replies in the same place that drafts are looked up in, the latest ones."""


@dataclass(frozen=True, kw_only=True)
class SeedSource:
    """What a reply's seed is made of: the session's, the reply's position on its path, the attempt from 0."""

    session_seed: int
    turn: int
    attempt: int

    @property
    def seed(self) -> int:
        """The reply's seed."""
        return reply_seed(self.session_seed, self.turn, self.attempt)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A reply that can be asked for."""

    fitted: Fitted
    request: GenerationRequest
    generation: NewGeneration
    """What the store keeps of it."""


class Planner:
    """Plans replies of one model.

    Args:
        model: The model that replies.
        checkpoint_id: The store's id of its checkpoint.
    """

    def __init__(self, model: Backend, checkpoint_id: int) -> None:
        self.model = model
        self.checkpoint_id = checkpoint_id
        self.environment: Mapping[str, object] = {**model.environment, "context_rule": CONTEXT_RULE}

    def plan(
        self,
        path: Sequence[PathMessage],
        content: str,
        settings: Settings,
        *,
        attempt: int = 0,
        session_seed: int | None = None,
        forced_ids: tuple[int, ...] = (),
        examples: Sequence[RecordedTurn] = (),
        asked: Mapping[str, object] | None = None,
    ) -> Plan:
        """Plan the reply to a message after a path of messages.

        Args:
            path: The messages before, from the root of their tree on.
            content: The message.
            settings: How to reply.
            attempt: The number of the attempt at this reply, from 0.
            session_seed: The seed instead of that of the settings.
            forced_ids: The reply's first tokens, taken instead of drawn.
            examples: Turns in the same place, whose replies this one may repeat in part.
            asked: How the reply was asked for, to be stored along with it.

        Raises:
            MessageTooLong: The message leaves no room for a reply.
            ChatError: The settings or the forced ids cannot be used.
        """
        fitted = fit_turn(self.model, settings, path, content)
        source = SeedSource(
            session_seed=settings.seed if session_seed is None else session_seed,
            turn=len(path) + 1,
            attempt=attempt,
        )
        request = request_for(
            self.model,
            fitted.prompt_ids,
            settings,
            seed=source.seed,
            forced_ids=forced_ids,
            examples=self._replies(examples),
        )
        sampling = settings.stored()
        max_new_tokens = sampling.pop("max_new_tokens")
        generation = NewGeneration(
            checkpoint_id=self.checkpoint_id,
            seed=source.seed,
            attempt=attempt,
            sampling=sampling,
            max_new_tokens=max_new_tokens,
            prompt_hash=prompt_hash(fitted.prompt_ids),
            trimmed_turns=fitted.trimmed_turns,
            forced_ids=forced_ids,
            environment={
                **self.environment,
                "seed_source": asdict(source),
                **({} if asked is None else {"asked": dict(asked)}),
            },
        )
        return Plan(fitted=fitted, request=request, generation=generation)

    def _replies(self, turns: Sequence[RecordedTurn]) -> tuple[tuple[int, ...], ...]:
        """Return the tokens of the latest replies, for drafts; those of another model's are only a guess."""
        if not self.model.drafts:
            return ()
        encode = self.model.tokenizer.encode_ids
        replies = [turn.reply for turn in turns[-MOST_EXAMPLES:]]
        return tuple(reply.token_ids or tuple(encode(reply.content)) for reply in replies)


def request_for(
    model: Backend,
    prompt_ids: tuple[int, ...],
    settings: Settings,
    *,
    seed: int,
    forced_ids: tuple[int, ...] = (),
    examples: tuple[tuple[int, ...], ...] = (),
) -> GenerationRequest:
    """Return the request for one reply under the settings of a conversation.

    Raises:
        MessageTooLong: The prompt and the forced ids leave no room for a token.
        ChatError: A setting cannot be used, or the forced ids leave nothing to draw.
    """
    given = len(prompt_ids) + len(forced_ids)
    if given >= model.context_length:
        raise MessageTooLong(
            f"the prompt has {given} tokens, and this model reads {model.context_length - 1} at most"
        )
    try:
        return model.request(
            prompt_ids=prompt_ids,
            sampling=Sampling(
                temperature=settings.temperature,
                top_k=settings.top_k,
                top_p=settings.top_p,
                repetition_penalty=settings.repetition_penalty,
                min_p=settings.min_p,
                typical_p=settings.typical_p,
                frequency_penalty=settings.frequency_penalty,
                presence_penalty=settings.presence_penalty,
                logit_bias=settings.logit_bias,
            ),
            max_new_tokens=settings.max_new_tokens,
            seed=seed,
            stop=settings.stop,
            forced_ids=forced_ids,
            examples=examples,
        )
    except ValueError as error:
        raise ChatError(str(error)) from error


def fit_turn(
    model: Backend,
    settings: Settings,
    path: Sequence[PathMessage],
    content: str,
    *,
    rule: int = CONTEXT_RULE,
) -> Fitted:
    """Return the prompt for a message after a path of messages. Raises MessageTooLong."""
    return fit(
        template=model.template,
        context_length=model.context_length,
        max_new_tokens=settings.max_new_tokens,
        system=system_of(path),
        exchanges=exchanges_of(path, keep_stopped=settings.keep_stopped, rule=rule),
        message=with_unanswered(path, content, rule=rule),
        rule=rule,
    )


def recorded_rule(generation: Generation) -> int:
    """Return the context rule that a reply's prompt was made under; the newest where it is unknown."""
    rule: object = generation.environment.get("context_rule", 1)
    return rule if isinstance(rule, int) and 1 <= rule <= CONTEXT_RULE else CONTEXT_RULE


def recorded_settings(generation: Generation) -> Settings:
    """Return the settings that a reply was asked for with. Raises ChatError if they are damaged."""
    try:
        return Settings.from_stored(
            {**generation.sampling, "max_new_tokens": generation.max_new_tokens}, seed=0
        )
    except ValueError as error:
        raise ChatError(f"the settings of the reply are damaged: {error}") from error


def fit_recorded(
    model: Backend, settings: Settings, path: Sequence[PathMessage], content: str, generation: Generation
) -> Fitted:
    """Return the prompt of a recorded reply, made again under its own rule. Raises MessageTooLong."""
    return fit_turn(model, settings, path, content, rule=recorded_rule(generation))
