"""The life of one turn: fit, store the message, generate, show, store the reply.

The message is durable before the engine hears of it, the reply before `send` returns; a cancelled `send`
keeps what was said. Knows no terminal (a Listener hears the text) and no torch (a Model makes requests).
Runs on asyncio and trio.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeVar

import anyio

from engine import Engine, Event, GenerationFailed, Job, Timings, TokenGenerated
from niels_gpt.chat.context import Fitted, Template, fit, prompt_hash
from niels_gpt.chat.errors import ReplyFailed
from niels_gpt.chat.record import Record
from niels_gpt.chat.settings import Settings
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


class Model(Protocol):
    """A loaded checkpoint, as far as a conversation needs it."""

    @property
    def template(self) -> Template:
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

    def request(self, *, prompt_ids: tuple[int, ...], settings: Settings, seed: int) -> Any:
        """Return what the engine's decoder admits; ChatError if the settings do not fit the model."""
        ...

    def close(self) -> None:
        """End what the model keeps running; nothing may use it afterwards."""
        ...


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A stored reply, why it ended ("stop", "length", "context" or "cancelled"), and what it took."""

    message: Message
    reason: str
    prompt_tokens: int
    timings: Timings


class Conversation:
    """Sends messages of one session to one model; `on_event` hears every event of every reply."""

    def __init__(
        self,
        *,
        record: Record,
        model: Model,
        engine: Engine[Any, Any],
        on_event: Callable[[Event], None] = lambda _: None,
    ) -> None:
        self._record = record
        self._model = model
        self._engine = engine
        self._on_event = on_event
        self._checkpoint_id: int | None = None
        self._trimmed = 0

    async def send(self, content: str, listener: Listener) -> Reply:
        """Send a message and return its reply once it is stored.

        Raises MessageTooLong (nothing is stored), ReplyFailed (the message stays), SessionTrouble. When
        cancelled, what was said is stored as a cancelled reply before the cancellation goes on.
        """
        record, settings = self._record, self._record.settings
        fitted = self._fit(content, settings)
        seed = self._model.reply_seed(settings.seed, record.reply_position, 0)
        request = self._model.request(prompt_ids=fitted.prompt_ids, settings=settings, seed=seed)
        generation = await self._new_generation(fitted, settings, seed=seed, attempt=0)
        # Once the message may be in the store, a cancellation waits for the job that it can stop.
        turn = await _shielded(record.begin_turn(content, generation))
        self._announce(fitted, listener)
        return await self._follow(self._engine.submit(request), turn.generation, fitted, listener)

    async def finish_pending(self, turn: Turn, listener: Listener) -> Reply:
        """Generate the reply that was interrupted, as it would have been.

        Under another checkpoint that cannot be: then the store gives the old generation up for a new one,
        the next attempt at the reply.
        """
        record, old = self._record, turn.generation
        settings = Settings.from_stored(
            {**old.sampling, "max_new_tokens": old.max_new_tokens}, seed=turn.session.seed
        )
        fitted = self._fit(turn.user.content, settings, before=turn.user.position)
        same = (
            prompt_hash(fitted.prompt_ids) == old.prompt_hash
            and await self._checkpoint() == old.checkpoint_id
        )
        if not same:
            attempt = old.attempt + 1
            seed = self._model.reply_seed(settings.seed, turn.user.position + 1, attempt)
            generation = await self._new_generation(fitted, settings, seed=seed, attempt=attempt)
            turn = await _shielded(record.begin_retry(turn.user, generation))
        request = self._model.request(
            prompt_ids=fitted.prompt_ids, settings=settings, seed=turn.generation.seed
        )
        self._announce(fitted, listener)
        return await self._follow(self._engine.submit(request), turn.generation, fitted, listener)

    def _fit(self, content: str, settings: Settings, *, before: int | None = None) -> Fitted:
        return fit(
            template=self._model.template,
            context_length=self._model.context_length,
            max_new_tokens=settings.max_new_tokens,
            system=self._record.system,
            exchanges=self._record.exchanges(before=before),
            message=content,
        )

    def _announce(self, fitted: Fitted, listener: Listener) -> None:
        """Say that turns were dropped, once for each number of them."""
        if fitted.trimmed_turns > self._trimmed:
            listener.trimmed(fitted.trimmed_turns)
        self._trimmed = fitted.trimmed_turns

    async def _checkpoint(self) -> int:
        if self._checkpoint_id is None:
            self._checkpoint_id = await self._record.remember_checkpoint(**self._model.checkpoint)
        return self._checkpoint_id

    async def _new_generation(
        self, fitted: Fitted, settings: Settings, *, seed: int, attempt: int
    ) -> NewGeneration:
        stored = settings.stored()
        max_new_tokens = stored.pop("max_new_tokens")
        return NewGeneration(
            checkpoint_id=await self._checkpoint(),
            seed=seed,
            attempt=attempt,
            sampling=stored,
            max_new_tokens=int(max_new_tokens or 0),
            prompt_hash=prompt_hash(fitted.prompt_ids),
            trimmed_turns=fitted.trimmed_turns,
            environment=self._model.environment,
        )

    async def _follow(self, job: Job, generation: Generation, fitted: Fitted, listener: Listener) -> Reply:
        """Pass the text on as it comes and store the reply, also when cancelled meanwhile."""
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

    async def _settle(self, job: Job, generation: Generation, fitted: Fitted) -> Reply:
        try:
            result = await job.result()
        except GenerationFailed as error:
            await self._record.fail(generation.id, f"{error.kind}: {error.__cause__}")
            raise ReplyFailed(
                f"the reply failed ({error.kind}: {error.__cause__}); your message is kept, send another"
            ) from error
        message = await self._record.finish(
            generation.id,
            content=result.text,
            token_ids=result.token_ids,
            reason=result.reason,
            receipt=result.receipt,
            timings=asdict(result.timings),
        )
        return Reply(
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
    record: Record, model: Model, *, on_event: Callable[[Event], None] = lambda _: None
) -> AsyncIterator[Conversation]:
    """Run an engine over the model for as long as the block is open."""
    async with Engine(model.decoder) as engine:
        yield Conversation(record=record, model=model, engine=engine, on_event=on_event)
