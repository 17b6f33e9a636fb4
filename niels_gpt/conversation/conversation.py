"""The life of one turn: fit, store the message, generate, pass the text on, store the reply.

The message is durable before the engine hears of it, the reply before `send` returns, or else it is kept and
tried again (`ConversationSession.save`). A cancelled `send` keeps what was said. Runs on asyncio and trio.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from engine import Engine, Event, GenerationFailed, Job, Timings, TokenGenerated
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
from niels_gpt.conversation.errors import ChatError, MessageTooLong, ReplyFailed
from niels_gpt.conversation.listener import Listener
from niels_gpt.conversation.session import ConversationSession, Reply
from niels_gpt.conversation.settings import Settings
from niels_gpt.errors import ReportedError
from sessions import Generation, Message, NewGeneration, Turn

if TYPE_CHECKING:
    from niels_gpt.conversation.model import ChatModel

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class TurnResult:
    """A reply, why it ended ("stop", "length", "context" or "cancelled"), and what it took.

    `stored` is False while the store cannot take it; the session then keeps it and tries again.
    """

    message: Message
    reason: str
    prompt_tokens: int
    trimmed_turns: int
    timings: Timings
    stored: bool


@dataclass(frozen=True, kw_only=True)
class SeedSource:
    """What a reply's seed is made of: the session's, the reply's position on its path, the attempt from 0."""

    session_seed: int
    turn: int
    attempt: int


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A reply that is ready to be asked for; `user` is the message it answers, None for a new one."""

    user: Message | None
    fitted: Fitted
    request: Any
    generation: NewGeneration


class Conversation:
    """Sends messages of one session to one model; `on_event` hears every event of every reply."""

    def __init__(
        self,
        *,
        session: ConversationSession,
        model: ChatModel,
        engine: Engine[Any, Any],
        on_event: Callable[[Event], None] = lambda _: None,
    ) -> None:
        self.session = session
        self.model = model
        self._engine = engine
        self._on_event = on_event
        self._checkpoint_id: int | None = None
        self._is_trimmed = False
        self._counted: tuple[object, int] | None = None

    async def send(self, content: str, listener: Listener) -> TurnResult:
        """Send a message and return its reply.

        When cancelled, what was said is stored as a cancelled reply before the cancellation continues.

        Raises:
            MessageTooLong: Nothing is stored.
            ReplyFailed: The message stays, without a reply.
            SessionTrouble: The store refused; nothing is stored.
        """
        session = self.session
        prepared = await self._prepare(
            content, session.messages, system=session.system, position=session.reply_position, attempt=0
        )
        # Once the message may be in the store, a cancellation waits for the job that it can stop.
        turn = await _shielded(session.begin_turn(content, prepared.generation))
        return await self._follow(prepared, turn.generation, listener)

    async def edit(self, user: Message, content: str, listener: Listener) -> TurnResult:
        """Send a message in the place of one of the path, next to it in the tree. Raises as `send`."""
        path = self.session.messages[: user.position]
        prepared = await self._prepare(
            content, path, system=system_of(path), position=user.position + 1, attempt=0
        )
        turn = await _shielded(self.session.begin_edit(user, content, prepared.generation))
        return await self._follow(prepared, turn.generation, listener)

    async def prepare(
        self, user: Message, *, session_seed: int, attempt: int, forced_ids: tuple[int, ...] = ()
    ) -> Prepared:
        """Return what another reply to a message of the path would be made from. Nothing is stored.

        Raises:
            MessageTooLong: The message does not fit into this model's context.
            ChatError: The forced ids leave nothing to draw.
        """
        path = self.session.messages[: user.position]
        return await self._prepare(
            user.content,
            path,
            system=system_of(path),
            position=user.position + 1,
            attempt=attempt,
            user=user,
            session_seed=session_seed,
            forced_ids=forced_ids,
        )

    async def again(self, prepared: Prepared, listener: Listener) -> TurnResult:
        """Generate another reply, stored next to the others to its message. Raises as `send`."""
        if prepared.user is None:
            raise ValueError("got a reply to a new message, expected one from Conversation.prepare")
        turn = await _shielded(self.session.begin_retry(prepared.user, prepared.generation))
        return await self._follow(prepared, turn.generation, listener)

    async def finish_pending(self, turn: Turn, listener: Listener) -> TurnResult:
        """Generate the reply that was interrupted, as it would have been.

        A checkpoint that cannot do that makes the next attempt instead, and the listener hears of it first.
        A reply that cannot be made at all is stored as failed, so that the session can be used. Raises as
        `send`.
        """
        try:
            prepared, generation = await self._prepare_pending(turn, listener)
        except ReportedError as error:
            await self.session.fail(turn.generation.id, str(error))
            raise
        return await self._follow(prepared, generation, listener)

    async def checkpoint_id(self) -> int:
        """Return the store's id of the model's checkpoint."""
        if self._checkpoint_id is None:
            self._checkpoint_id = await self.session.remember_checkpoint(**self.model.checkpoint)
        return self._checkpoint_id

    def used_tokens(self) -> int:
        """Return how many tokens of the context the next prompt takes before its message."""
        session = self.session
        last = session.messages[-1] if session.messages else None
        state = (session.system, session.settings, last, len(session.messages))
        if self._counted is None or self._counted[0] != state:
            try:
                fitted = fit_turn(self.model, session.settings, session.messages, "", system=session.system)
            except MessageTooLong:
                used = self.model.context_length
            else:
                used = len(fitted.prompt_ids)
            self._counted = (state, used)
        return self._counted[1]

    async def _prepare_pending(self, turn: Turn, listener: Listener) -> tuple[Prepared, Generation]:
        old, path = turn.generation, self.session.messages[: turn.user.position]
        try:
            settings = Settings.from_stored(
                {**old.sampling, "max_new_tokens": old.max_new_tokens}, seed=turn.session.seed
            )
        except ValueError as error:
            raise ChatError(f"the settings of the interrupted reply are damaged: {error}") from error
        fitted = self._fit(turn.user.content, settings, path, system=system_of(path), rule=recorded_rule(old))
        if (
            prompt_hash(fitted.prompt_ids) == old.prompt_hash
            and await self.checkpoint_id() == old.checkpoint_id
        ):
            request = self._request(fitted, settings, seed=old.seed, forced_ids=old.forced_ids)
            again = NewGeneration(
                checkpoint_id=old.checkpoint_id,
                seed=old.seed,
                attempt=old.attempt,
                sampling=old.sampling,
                max_new_tokens=old.max_new_tokens,
                prompt_hash=old.prompt_hash,
                trimmed_turns=old.trimmed_turns,
                environment=old.environment,
                forced_ids=old.forced_ids,
            )
            return Prepared(user=turn.user, fitted=fitted, request=request, generation=again), old
        listener.restarted(old)
        prepared = await self._prepare(
            turn.user.content,
            path,
            system=system_of(path),
            position=turn.user.position + 1,
            attempt=old.attempt + 1,
            user=turn.user,
            settings=settings,
        )
        begun = await _shielded(self.session.begin_retry(turn.user, prepared.generation))
        return prepared, begun.generation

    async def _prepare(
        self,
        content: str,
        path: Sequence[Message],
        *,
        system: str | None,
        position: int,
        attempt: int,
        user: Message | None = None,
        settings: Settings | None = None,
        session_seed: int | None = None,
        forced_ids: tuple[int, ...] = (),
    ) -> Prepared:
        """Return the request for a reply, and all that is stored of it beforehand: enough to repeat it."""
        settings = settings or self.session.settings
        fitted = self._fit(content, settings, path, system=system)
        source = SeedSource(
            session_seed=settings.seed if session_seed is None else session_seed,
            turn=position,
            attempt=attempt,
        )
        seed = self.model.reply_seed(source.session_seed, source.turn, source.attempt)
        request = self._request(fitted, settings, seed=seed, forced_ids=forced_ids)
        sampling = settings.stored()
        max_new_tokens = sampling.pop("max_new_tokens")
        generation = NewGeneration(
            checkpoint_id=await self.checkpoint_id(),
            seed=seed,
            attempt=source.attempt,
            sampling=sampling,
            max_new_tokens=int(max_new_tokens or 0),
            prompt_hash=prompt_hash(fitted.prompt_ids),
            trimmed_turns=fitted.trimmed_turns,
            forced_ids=forced_ids,
            environment={
                **self.model.environment,
                "context_rule": CONTEXT_RULE,
                "seed_source": asdict(source),
            },
        )
        return Prepared(user=user, fitted=fitted, request=request, generation=generation)

    def _fit(
        self,
        content: str,
        settings: Settings,
        path: Sequence[Message],
        *,
        system: str | None,
        rule: int = CONTEXT_RULE,
    ) -> Fitted:
        return fit_turn(self.model, settings, path, content, system=system, rule=rule)

    def _request(self, fitted: Fitted, settings: Settings, *, seed: int, forced_ids: tuple[int, ...]) -> Any:
        return self.model.request(
            prompt_ids=fitted.prompt_ids, settings=settings, seed=seed, forced_ids=forced_ids
        )

    async def _follow(self, prepared: Prepared, generation: Generation, listener: Listener) -> TurnResult:
        """Generate, pass the text on as it comes, and keep the reply, also when cancelled meanwhile."""
        fitted = prepared.fitted
        if fitted.trimmed_turns and not self._is_trimmed:
            listener.trimmed(fitted.trimmed_turns)
        self._is_trimmed = fitted.trimmed_turns > 0
        if fitted.cut_tokens:
            listener.cut(fitted.cut_tokens)
        job = self._engine.submit(prepared.request)
        heard = 0
        try:
            async for event in job.events():
                heard = event.seq + 1
                self._pass_on(event, listener)
        except anyio.get_cancelled_exc_class():
            job.cancel()
            # A reply that fails at this moment is stored as failed, and the cancellation is what counts.
            with suppress(ChatError), anyio.CancelScope(shield=True):
                result = await self._settle(job, generation, fitted)
                # Tokens that were made before the cancellation arrived belong to the reply: they are shown.
                async for event in job.events(heard):
                    self._pass_on(event, listener)
                listener.ended(result)
            raise
        except BaseException:
            job.cancel()
            with suppress(ChatError):
                await _shielded(self._settle(job, generation, fitted))
            raise
        result = await _shielded(self._settle(job, generation, fitted))
        listener.ended(result)
        return result

    def _pass_on(self, event: Event, listener: Listener) -> None:
        self._on_event(event)
        if isinstance(event, TokenGenerated) and event.text:
            listener.text(event.text)

    async def _settle(self, job: Job, generation: Generation, fitted: Fitted) -> TurnResult:
        try:
            result = await job.result()
        except GenerationFailed as error:
            await self.session.fail(generation.id, f"{error.kind}: {error.__cause__}")
            raise ReplyFailed(
                f"the reply failed ({error.kind}: {error.__cause__}); your message is kept: /retry, or send "
                "another"
            ) from error
        message = await self.session.finish(
            generation.id,
            Reply(
                content=result.text,
                token_ids=result.token_ids,
                reason=result.reason,
                receipt=result.receipt,
                timings=asdict(result.timings),
            ),
        )
        return TurnResult(
            message=message,
            reason=result.reason,
            prompt_tokens=len(fitted.prompt_ids),
            trimmed_turns=fitted.trimmed_turns,
            timings=result.timings,
            stored=self.session.unsaved is None,
        )


def fit_turn(
    model: ChatModel,
    settings: Settings,
    path: Sequence[PathMessage],
    content: str,
    *,
    system: str | None,
    rule: int = CONTEXT_RULE,
) -> Fitted:
    """Return the prompt for a message after a path of messages. Raises MessageTooLong."""
    return fit(
        template=model.template,
        context_length=model.context_length,
        max_new_tokens=settings.max_new_tokens,
        system=system,
        exchanges=exchanges_of(path, keep_stopped=settings.keep_stopped, rule=rule),
        message=with_unanswered(path, content, rule=rule),
        rule=rule,
    )


def recorded_rule(generation: Generation) -> int:
    """Return the context rule that a reply's prompt was made under; the newest where it is unknown."""
    rule: object = generation.environment.get("context_rule", 1)
    return rule if isinstance(rule, int) and 1 <= rule <= CONTEXT_RULE else CONTEXT_RULE


async def _shielded(work: Awaitable[T]) -> T:
    with anyio.CancelScope(shield=True):
        return await work
    raise AssertionError("a shield lets nothing out but what the work raises")


@asynccontextmanager
async def converse(
    session: ConversationSession, model: ChatModel, *, on_event: Callable[[Event], None] = lambda _: None
) -> AsyncIterator[Conversation]:
    """Run an engine over the model for as long as the block is open."""
    decoder: Any = model.decoder
    async with Engine(decoder) as engine:
        yield Conversation(session=session, model=model, engine=engine, on_event=on_event)
