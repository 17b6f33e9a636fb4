"""The life of one turn: fit, store the message, generate, pass the text on, store the reply.

The message is durable before the engine hears of it, the reply before `send` returns, or else it is kept and
tried again (`ConversationSession.save`). A cancelled `send` keeps what was said. Runs on asyncio and trio.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from engine import Engine, Event, GenerationFailed, Job, Timings, TokenGenerated
from niels_gpt.conversation.context import Fitted, prompt_hash
from niels_gpt.conversation.errors import ChatError, MessageTooLong, ReplyFailed
from niels_gpt.conversation.listener import Listener
from niels_gpt.conversation.planning import (
    Plan,
    Planner,
    fit_recorded,
    fit_turn,
    recorded_settings,
    request_for,
)
from niels_gpt.conversation.reply_keeper import Reply
from niels_gpt.conversation.session import ConversationSession
from niels_gpt.errors import ReportedError
from sessions import Generation, Message, Turn

if TYPE_CHECKING:
    from niels_gpt.decoding.backend import Backend
    from niels_gpt.decoding.request import GenerationRequest

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
class Prepared:
    """Another reply to a stored message, ready to be asked for."""

    user: Message
    plan: Plan


class Conversation:
    """Sends messages of one session to one model; `on_event` hears every event of every reply."""

    def __init__(
        self,
        *,
        session: ConversationSession,
        model: Backend,
        engine: Engine[Any, Any],
        on_event: Callable[[Event], None] = lambda _: None,
    ) -> None:
        self.session = session
        self.model = model
        self._engine = engine
        self._on_event = on_event
        self._planner: Planner | None = None
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
        planner = await self._ready()
        plan = planner.plan(self.session.path, content, self.session.settings)
        # Once the message may be in the store, a cancellation waits for the job that it can stop.
        turn = await _shielded(self.session.begin_turn(content, plan.generation))
        return await self._follow(plan.fitted, plan.request, turn.generation, listener)

    async def edit(self, user: Message, content: str, listener: Listener) -> TurnResult:
        """Send a message in the place of one of the path, next to it in the tree. Raises as `send`."""
        planner = await self._ready()
        plan = planner.plan(
            self.session.messages[: user.position],
            content,
            self.session.settings,
            examples=await self.session.variants(user) if self.model.drafts else (),
        )
        turn = await _shielded(self.session.begin_edit(user, content, plan.generation))
        return await self._follow(plan.fitted, plan.request, turn.generation, listener)

    async def prepare(
        self, user: Message, *, session_seed: int, attempt: int, forced_ids: tuple[int, ...] = ()
    ) -> Prepared:
        """Return what another reply to a message of the path would be made from. Nothing is stored.

        Raises:
            MessageTooLong: The message does not fit into this model's context.
            ChatError: The forced ids leave nothing to draw.
        """
        planner = await self._ready()
        plan = planner.plan(
            self.session.messages[: user.position],
            user.content,
            self.session.settings,
            attempt=attempt,
            session_seed=session_seed,
            forced_ids=forced_ids,
            examples=await self.session.variants(user) if self.model.drafts else (),
        )
        return Prepared(user=user, plan=plan)

    async def again(self, prepared: Prepared, listener: Listener) -> TurnResult:
        """Generate another reply, stored next to the others to its message. Raises as `send`."""
        plan = prepared.plan
        turn = await _shielded(self.session.begin_retry(prepared.user, plan.generation))
        return await self._follow(plan.fitted, plan.request, turn.generation, listener)

    async def finish_pending(self, turn: Turn, listener: Listener) -> TurnResult:
        """Generate the reply that was interrupted, as it would have been.

        A checkpoint that cannot do that makes the next attempt instead, and the listener hears of it first.
        A reply that cannot be made at all is stored as failed, so that the session can be used. Raises as
        `send`.
        """
        try:
            fitted, request, generation = await self._pending(turn, listener)
        except ReportedError as error:
            await self.session.fail(turn.generation.id, str(error))
            raise
        return await self._follow(fitted, request, generation, listener)

    async def checkpoint_id(self) -> int:
        """Return the store's id of the model's checkpoint."""
        return (await self._ready()).checkpoint_id

    def used_tokens(self) -> int:
        """Return how many tokens of the context the next prompt takes before its message."""
        session = self.session
        last = session.messages[-1] if session.messages else None
        state = (session.system, session.settings, last, len(session.messages))
        if self._counted is None or self._counted[0] != state:
            try:
                fitted = fit_turn(self.model, session.settings, session.path, "")
            except MessageTooLong:
                used = self.model.context_length
            else:
                used = len(fitted.prompt_ids)
            self._counted = (state, used)
        return self._counted[1]

    async def _ready(self) -> Planner:
        if self._planner is None:
            checkpoint_id = await self.session.remember_checkpoint(**self.model.checkpoint)
            self._planner = Planner(self.model, checkpoint_id)
        return self._planner

    async def _pending(self, turn: Turn, listener: Listener) -> tuple[Fitted, GenerationRequest, Generation]:
        """Return the interrupted reply as it was begun, or else the next attempt at it."""
        planner = await self._ready()
        old, path = turn.generation, self.session.messages[: turn.user.position]
        settings = recorded_settings(old)
        fitted = fit_recorded(self.model, settings, path, turn.user.content, old)
        if prompt_hash(fitted.prompt_ids) == old.prompt_hash and planner.checkpoint_id == old.checkpoint_id:
            request = request_for(
                self.model, fitted.prompt_ids, settings, seed=old.seed, forced_ids=old.forced_ids
            )
            return fitted, request, old
        listener.restarted(old)
        plan = planner.plan(
            path,
            turn.user.content,
            settings,
            attempt=old.attempt + 1,
            session_seed=turn.session.seed,
        )
        begun = await _shielded(self.session.begin_retry(turn.user, plan.generation))
        return plan.fitted, plan.request, begun.generation

    async def _follow(
        self, fitted: Fitted, request: GenerationRequest, generation: Generation, listener: Listener
    ) -> TurnResult:
        """Generate, pass the text on as it comes, and keep the reply, also when cancelled meanwhile."""
        if fitted.trimmed_turns and not self._is_trimmed:
            listener.trimmed(fitted.trimmed_turns)
        self._is_trimmed = fitted.trimmed_turns > 0
        if fitted.cut_tokens:
            listener.cut(fitted.cut_tokens)
        job = self._engine.submit(request)
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


async def _shielded(work: Awaitable[T]) -> T:
    with anyio.CancelScope(shield=True):
        return await work
    raise AssertionError("a shield lets nothing out but what the work raises")


@asynccontextmanager
async def converse(
    session: ConversationSession, model: Backend, *, on_event: Callable[[Event], None] = lambda _: None
) -> AsyncIterator[Conversation]:
    """Run an engine over the model for as long as the block is open."""
    decoder: Any = model.decoder
    async with Engine(decoder) as engine:
        yield Conversation(session=session, model=model, engine=engine, on_event=on_event)
