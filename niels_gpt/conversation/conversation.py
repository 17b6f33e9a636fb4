"""The life of one turn: fit, store the message, generate, show, store the reply.

The message is durable before the engine hears of it, the reply before `send` returns; a cancelled `send`
keeps what was said. Runs on asyncio and trio.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeVar

import anyio

from engine import Engine, Event, GenerationFailed, Job, Timings, TokenGenerated
from niels_gpt.conversation.context import (
    CONTEXT_RULE,
    Fitted,
    PromptTemplate,
    exchanges_of,
    fit,
    prompt_hash,
    system_of,
)
from niels_gpt.conversation.errors import ReplyFailed
from niels_gpt.conversation.session import ConversationSession
from niels_gpt.conversation.settings import Settings
from sessions import Generation, Message, NewGeneration, Turn

T = TypeVar("T")


class Listener(Protocol):
    """Hears a reply as it comes. Called on the event loop; what it raises ends the reply as cancelled."""

    def trimmed(self, turns: int) -> None:
        """The oldest `turns` whole turns no longer fit into the context."""
        ...

    def text(self, delta: str) -> None:
        """The next piece of the reply, raw."""
        ...


class ChatModel(Protocol):
    """A loaded checkpoint, as far as a conversation needs it."""

    @property
    def template(self) -> PromptTemplate:
        """What turns messages into prompt ids."""
        ...

    @property
    def context_length(self) -> int:
        """T: how many tokens a prompt and its reply may have together."""
        ...

    @property
    def checkpoint(self) -> Mapping[str, Any]:
        """The arguments of `Store.remember_checkpoint`."""
        ...

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a text, as part of a reply."""
        ...

    @property
    def environment(self) -> Mapping[str, object]:
        """What explains a reply's bits beside the checkpoint: versions, device, threads."""
        ...

    @property
    def notice(self) -> str | None:
        """What the user should know about this model before its first reply."""
        ...

    @property
    def decoder(self) -> Any:
        """The engine.Decoder for this model's requests."""
        ...

    def reply_seed(self, session_seed: int, turn: int, attempt: int) -> int:
        """Return the seed of one reply; `turn` is its position on the path."""
        ...

    def request(
        self,
        *,
        prompt_ids: tuple[int, ...],
        settings: Settings,
        seed: int,
        forced_ids: tuple[int, ...] = (),
    ) -> Any:
        """Return what the engine's decoder admits; ChatError if the settings do not fit the model.

        `forced_ids` are the reply's first tokens, taken instead of drawn.
        """
        ...

    def close(self) -> None:
        """End what the model keeps running; nothing may use it afterwards."""
        ...


@dataclass(frozen=True, kw_only=True)
class TurnResult:
    """A stored reply, why it ended ("stop", "length", "context" or "cancelled"), and what it took."""

    message: Message
    reason: str
    prompt_tokens: int
    timings: Timings


@dataclass(frozen=True, kw_only=True)
class SeedSource:
    """What a reply's seed is made of: the session's, the reply's position on its path, the attempt from 0."""

    session_seed: int
    turn: int
    attempt: int


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Another reply to a stored message, ready to be asked for."""

    user: Message
    fitted: Fitted
    request: Any
    generation: NewGeneration


class Conversation:
    """Sends messages of one session to one model; `on_event` hears every event of every reply."""

    def __init__(
        self,
        *,
        record: ConversationSession,
        model: ChatModel,
        engine: Engine[Any, Any],
        on_event: Callable[[Event], None] = lambda _: None,
    ) -> None:
        self.record = record
        self.model = model
        self._engine = engine
        self._on_event = on_event
        self._checkpoint_id: int | None = None
        self._trimmed = 0

    async def send(self, content: str, listener: Listener) -> TurnResult:
        """Send a message and return its reply once it is stored.

        Raises MessageTooLong (nothing is stored), ReplyFailed (the message stays), SessionTrouble. When
        cancelled, what was said is stored as a cancelled reply before the cancellation goes on.
        """
        record, settings = self.record, self.record.settings
        # A session that is to be has no path yet, but a system prompt.
        fitted = self._fit(content, settings, record.messages, system=record.system)
        source = SeedSource(session_seed=settings.seed, turn=record.reply_position, attempt=0)
        request, generation = await self._ask(fitted, settings, source)
        # Once the message may be in the store, a cancellation waits for the job that it can stop.
        turn = await _shielded(record.begin_turn(content, generation))
        return await self._follow(request, turn.generation, fitted, listener)

    def check(self, content: str, path: Sequence[Message]) -> None:
        """Raise MessageTooLong for a message that leaves no room for a reply after `path`."""
        self._fit(content, self.record.settings, path, system=system_of(path))

    async def prepare(
        self, user: Message, *, session_seed: int, attempt: int, forced_ids: tuple[int, ...] = ()
    ) -> Prepared:
        """Return what another reply to a message of the path would be made from.

        Raises MessageTooLong, and ChatError for forced ids that leave nothing to draw. Nothing is stored.
        """
        settings, path = self.record.settings, self.record.messages[: user.position]
        fitted = self._fit(user.content, settings, path, system=system_of(path))
        source = SeedSource(session_seed=session_seed, turn=user.position + 1, attempt=attempt)
        request, generation = await self._ask(fitted, settings, source, forced_ids)
        return Prepared(user=user, fitted=fitted, request=request, generation=generation)

    async def again(self, prepared: Prepared, listener: Listener) -> TurnResult:
        """Generate another reply, stored beside the others to its message. Raises as `send`."""
        turn = await _shielded(self.record.begin_retry(prepared.user, prepared.generation))
        return await self._follow(prepared.request, turn.generation, prepared.fitted, listener)

    async def finish_pending(self, turn: Turn, listener: Listener) -> TurnResult:
        """Generate the reply that was interrupted, as it would have been.

        Under another checkpoint that cannot be: then the store gives the old generation up for a new one,
        the next attempt at the reply.
        """
        record, old = self.record, turn.generation
        settings = Settings.from_stored(
            {**old.sampling, "max_new_tokens": old.max_new_tokens}, seed=turn.session.seed
        )
        path = record.messages[: turn.user.position]
        fitted = self._fit(turn.user.content, settings, path, system=system_of(path))
        same = (
            prompt_hash(fitted.prompt_ids) == old.prompt_hash
            and await self.checkpoint_id() == old.checkpoint_id
        )
        if same:
            request = self._request(fitted, settings, seed=old.seed, forced_ids=old.forced_ids)
        else:
            position, attempt = turn.user.position + 1, old.attempt + 1
            source = SeedSource(session_seed=settings.seed, turn=position, attempt=attempt)
            request, generation = await self._ask(fitted, settings, source)
            turn = await _shielded(record.begin_retry(turn.user, generation))
        return await self._follow(request, turn.generation, fitted, listener)

    def _fit(
        self, content: str, settings: Settings, path: Sequence[Message], *, system: str | None
    ) -> Fitted:
        return fit(
            template=self.model.template,
            context_length=self.model.context_length,
            max_new_tokens=settings.max_new_tokens,
            system=system,
            exchanges=exchanges_of(path, keep_stopped=settings.keep_stopped),
            message=content,
        )

    def _announce(self, fitted: Fitted, listener: Listener) -> None:
        """Say that turns were dropped, once for each number of them."""
        if fitted.trimmed_turns > self._trimmed:
            listener.trimmed(fitted.trimmed_turns)
        self._trimmed = fitted.trimmed_turns

    async def checkpoint_id(self) -> int:
        """Return the store's id of the model's checkpoint."""
        if self._checkpoint_id is None:
            self._checkpoint_id = await self.record.remember_checkpoint(**self.model.checkpoint)
        return self._checkpoint_id

    def _request(self, fitted: Fitted, settings: Settings, *, seed: int, forced_ids: tuple[int, ...]) -> Any:
        return self.model.request(
            prompt_ids=fitted.prompt_ids, settings=settings, seed=seed, forced_ids=forced_ids
        )

    async def _ask(
        self, fitted: Fitted, settings: Settings, source: SeedSource, forced_ids: tuple[int, ...] = ()
    ) -> tuple[Any, NewGeneration]:
        """Return the request for a reply, and all that is stored of it beforehand: enough to repeat it."""
        seed = self.model.reply_seed(source.session_seed, source.turn, source.attempt)
        request = self._request(fitted, settings, seed=seed, forced_ids=forced_ids)
        stored = settings.stored()
        max_new_tokens = stored.pop("max_new_tokens")
        return request, NewGeneration(
            checkpoint_id=await self.checkpoint_id(),
            seed=seed,
            attempt=source.attempt,
            sampling=stored,
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

    async def _follow(
        self, request: Any, generation: Generation, fitted: Fitted, listener: Listener
    ) -> TurnResult:
        """Generate, pass the text on as it comes, and store the reply, also when cancelled meanwhile."""
        self._announce(fitted, listener)
        job = self._engine.submit(request)
        try:
            async for event in job.events():
                self._on_event(event)
                if isinstance(event, TokenGenerated) and event.text:
                    listener.text(event.text)
        except BaseException:
            job.cancel()
            await _shielded(self._settle(job, generation, fitted))
            raise
        return await _shielded(self._settle(job, generation, fitted))

    async def _settle(self, job: Job, generation: Generation, fitted: Fitted) -> TurnResult:
        try:
            result = await job.result()
        except GenerationFailed as error:
            await self.record.fail(generation.id, f"{error.kind}: {error.__cause__}")
            raise ReplyFailed(
                f"the reply failed ({error.kind}: {error.__cause__}); your message is kept, send another"
            ) from error
        message = await self.record.finish(
            generation.id,
            content=result.text,
            token_ids=result.token_ids,
            reason=result.reason,
            receipt=result.receipt,
            timings=asdict(result.timings),
        )
        return TurnResult(
            message=message,
            reason=result.reason,
            prompt_tokens=len(fitted.prompt_ids),
            timings=result.timings,
        )


async def _shielded(work: Awaitable[T]) -> T:
    with anyio.CancelScope(shield=True):
        return await work
    raise AssertionError("a shield lets nothing out but what the work raises")


@asynccontextmanager
async def converse(
    record: ConversationSession, model: ChatModel, *, on_event: Callable[[Event], None] = lambda _: None
) -> AsyncIterator[Conversation]:
    """Run an engine over the model for as long as the block is open."""
    async with Engine(model.decoder) as engine:
        yield Conversation(record=record, model=model, engine=engine, on_event=on_event)
