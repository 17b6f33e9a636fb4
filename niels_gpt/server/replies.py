"""Replies in the making, and those that were made: started once, followed by anyone, found again by id.

A reply is a job of the engine and, unless the client asked for nothing to be kept, a record of the store. Its
task belongs to the server and not to a connection. A reply that a killed server left pending is made again
from its record when somebody asks for it, and one that is whole is rendered from its tokens: both give the
bytes that the first client saw. For the event loop's thread; the store is called on others.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from engine import Engine, EngineClosed, EngineFull, GenerationFailed, Job, Result, TokenGenerated
from niels_gpt.conversation.settings import Settings
from niels_gpt.decoding.rescoring import logits_rows
from niels_gpt.errors import NielsGptError
from niels_gpt.server.errors import ApiError, as_api_error, logger
from niels_gpt.server.forms import Form, Outcome, ReplyInfo, Token, Vocabulary
from niels_gpt.server.logprobs import TokenLogprobs, Watcher, token_logprobs
from niels_gpt.server.metrics import Metrics
from niels_gpt.server.openai_forms import FORMS
from niels_gpt.server.plans import ServerPlanner
from niels_gpt.server.reply import Asked, Choice, Reply
from niels_gpt.text.detokenizer import Detokenizer
from sessions import Generation, GenerationFinished, RecordNotFound, SessionNotFound, Store, StoreError, Turn

if TYPE_CHECKING:
    pass

T = TypeVar("T")

REMEMBERED = 128  # finished replies whose frames stay in memory
STORE_THREADS = 4
RESCORING_THREADS = 1
_RESPONSE_ID = re.compile(r"(chatcmpl-|resp_)[0-9a-f]{24}")


class Replies:
    """All replies of a server."""

    def __init__(
        self,
        *,
        store: Store,
        planner: ServerPlanner,
        engine: Engine[Any, Any],
        tasks: TaskGroup,
        metrics: Metrics,
        most_jobs: int,
        deadline: float | None,
    ) -> None:
        """At most `most_jobs` run or wait; each may take `deadline` seconds from its request to its end."""
        self._most_jobs = most_jobs
        self.vocabulary = Vocabulary(planner.model.tokenizer)
        self._store = store
        self._planner = planner
        self._engine = engine
        self._tasks = tasks
        self._metrics = metrics
        self._deadline = deadline
        self._store_limiter = anyio.CapacityLimiter(STORE_THREADS)
        self._rescoring_limiter = anyio.CapacityLimiter(RESCORING_THREADS)
        self._finding = anyio.Lock()
        self._running: dict[str, Reply] = {}
        self._finished: OrderedDict[str, Reply] = OrderedDict()

    async def call(self, function: Callable[..., T], *args: object, **values: object) -> T:
        """Call the store off the event loop; not cut short, so that what it wrote is known."""
        work = partial(function, *args, **values)
        return await anyio.to_thread.run_sync(work, limiter=self._store_limiter)

    def check_room(self, count: int) -> None:
        """Raise EngineFull if the queue has no room for so many more replies, before any is stored."""
        if len(self._engine.jobs) + count > self._most_jobs:
            raise EngineFull(self._most_jobs)

    async def begin(self, info: ReplyInfo, choices: Sequence[Choice], form: Form | None = None) -> Reply:
        """Start what was stored just now; what cannot be started is recorded as failed. Raises as `start`."""
        try:
            return self.start(info, choices, form)
        except (EngineFull, EngineClosed) as error:
            for choice in choices:
                if choice.turn is not None:
                    generation = choice.turn.generation
                    await self.call(self._store.fail_generation, generation.id, error=str(error))
            raise

    def start(self, info: ReplyInfo, choices: Sequence[Choice], form: Form | None = None) -> Reply:
        """Have a response generated. Raises EngineFull, EngineClosed; then nothing runs."""
        outcomes = [
            Outcome(
                prompt_tokens=len(choice.request.prompt_ids),
                seed=choice.seed,
                reply_id=choice.turn.generation.id if choice.turn else None,
                session=choice.turn.session.name if choice.turn else None,
            )
            for choice in choices
        ]
        reply = Reply(info, form or FORMS[info.form](info, self.vocabulary), outcomes)
        watchers: list[Watcher | None] = []
        try:
            for choice in choices:
                watcher = None if info.top_logprobs is None else Watcher(info.top_logprobs)
                watchers.append(watcher)
                request = choice.request if watcher is None else replace(choice.request, watch=watcher)
                reply.jobs.append(self._engine.submit(request, deadline=self._deadline))
        except BaseException:
            reply.cancel()
            raise
        self._running[info.id] = reply
        for choice in choices:
            if choice.turn is not None:
                self._running[str(choice.turn.generation.id)] = reply
        self._tasks.start_soon(self._run, reply, choices, watchers, name=f"reply {info.id}")
        return reply

    async def _run(self, reply: Reply, choices: Sequence[Choice], watchers: Sequence[Watcher | None]) -> None:
        try:
            async with anyio.create_task_group() as tasks:
                for index, (choice, watcher) in enumerate(zip(choices, watchers, strict=True)):
                    tasks.start_soon(self._one, reply, index, choice, watcher)
        finally:
            for key in [key for key, each in self._running.items() if each is reply]:
                del self._running[key]
                if reply.whole:
                    self._finished[key] = reply
            while len(self._finished) > REMEMBERED:
                self._finished.popitem(last=False)
            reply.close()

    async def _one(self, reply: Reply, index: int, choice: Choice, watcher: Watcher | None) -> None:
        job, forced = reply.jobs[index], len(choice.request.forced_ids)
        async for event in job.events():
            if isinstance(event, TokenGenerated):
                # Forced tokens were not drawn, so nobody saw their logits.
                drawn = event.index - forced
                seen = None if watcher is None or drawn < 0 else watcher.tokens[drawn]
                reply.add(index, Token(event.token_id, event.text, seen))
        reason: str | None = None
        try:
            with anyio.CancelScope(shield=True):
                reason = await self._settle(job, choice)
        except (ApiError, StoreError, GenerationFailed) as error:
            logger.warning("reply %s failed: %s", reply.info.id, error)
            reply.failure = (
                ApiError(500, f"the reply failed ({error.kind}); ask again", code="generation_failed")
                if isinstance(error, GenerationFailed)
                else as_api_error(error)
            )
            reply.cancel()
            return
        self._metrics.observe(job.statistics())
        if reason is not None:
            reply.end(index, reason)

    async def _settle(self, job: Job, choice: Choice) -> str | None:
        """Store what came of a job and return why it ended; None if it is left pending for the next start."""
        try:
            result = await job.result()
        except GenerationFailed as error:
            if choice.turn is not None:
                text = f"{error.kind}: {error.__cause__}"
                await self.call(self._store.fail_generation, choice.turn.generation.id, error=text)
            raise
        if choice.turn is None:
            return result.reason
        if result.cause == "closing":
            return None
        try:
            await self._finish(choice.turn.generation.id, result)
        except GenerationFinished:
            # Another program on the same store finished the same reply; it can only be the same.
            stored = await self.call(self._store.turn, choice.turn.generation.id)
            if stored.generation.status == "failed":
                raise
            return stored.generation.finish_reason or result.reason
        return result.reason

    async def _finish(self, generation_id: int, result: Result) -> None:
        await self.call(
            self._store.finish_reply,
            generation_id,
            content=result.text,
            token_ids=result.token_ids,
            status="cancelled" if result.reason == "cancelled" else "complete",
            finish_reason=result.reason,
            receipt=result.receipt,
            timings=asdict(result.timings),
        )

    @property
    def followers(self) -> int:
        """Clients that follow a reply that is being generated."""
        return sum(reply.followers for reply in {id(each): each for each in self._running.values()}.values())

    def is_running(self, reply_id: str) -> bool:
        """Whether a reply is being generated here."""
        return reply_id in self._running

    async def find(self, reply_id: str) -> Reply:
        """Return a reply by its id: one in memory, or one that is made again from the store.

        Raises ApiError (404 for an unknown id, 409 for one that this server cannot continue exactly).
        """
        async with self._finding:
            known = self._running.get(reply_id) or self._finished.get(reply_id)
            if known is not None:
                return known
            try:
                turns = await self._stored(reply_id)
            except (SessionNotFound, RecordNotFound) as error:
                raise ApiError(404, f"unknown reply {reply_id[:80]!r}", code="not_found") from error
            return await self._restore(reply_id, turns)

    async def _stored(self, reply_id: str) -> list[Turn]:
        """Return the records of a response, one a choice."""
        if reply_id.isdecimal() and len(reply_id) < 19:
            return [await self.call(self._store.turn, int(reply_id))]
        if not _RESPONSE_ID.fullmatch(reply_id):
            raise SessionNotFound(reply_id[:80])
        first = await self._of_session(reply_id)
        names = choice_names(reply_id, Asked.of(first.generation).choices)
        return [first, *[await self._of_session(name) for name in names[1:]]]

    async def _of_session(self, name: str) -> Turn:
        session = await self.call(self._store.session, name)
        generations = await self.call(self._store.generations, session.id)
        if not generations:
            raise SessionNotFound(name)
        return await self.call(self._store.turn, generations[0].id)

    async def _restore(self, reply_id: str, turns: Sequence[Turn]) -> Reply:
        first = turns[0].generation
        asked = Asked.of(first)
        native = reply_id.isdecimal()
        info = ReplyInfo(
            id=reply_id,
            form="native" if native else asked.form,
            created=int(first.created.timestamp()),
            model=asked.model,
            fingerprint=self._planner.fingerprint_of(first),
            choices=len(turns),
            include_usage=asked.include_usage,
            top_logprobs=None if native else asked.top_logprobs,
            instructions=asked.instructions,
            previous=asked.previous,
        )
        for turn in turns:
            if turn.generation.status == "failed":
                raise ApiError(409, "this reply failed; ask for a new one", code="generation_failed")
        if any(turn.generation.status == "pending" for turn in turns):
            return self.start(info, [await self._choice_again(turn) for turn in turns])
        return await self._render(info, turns)

    async def _choice_again(self, turn: Turn) -> Choice:
        path = await self.call(self._store.path_to, turn.user.id)
        request = self._planner.again(path[:-1], turn.user.content, turn.generation)
        return Choice(request=request, turn=turn, seed=_session_seed(turn.generation))

    async def _render(self, info: ReplyInfo, turns: Sequence[Turn]) -> Reply:
        """Return a reply that is whole, made of its stored tokens."""
        parts = [await self._tokens(info, turn) for turn in turns]
        outcomes = [
            Outcome(
                prompt_tokens=_prompt_tokens(turn.generation),
                seed=_session_seed(turn.generation),
                reply_id=turn.generation.id,
                session=turn.session.name,
            )
            for turn in turns
        ]
        reply = Reply(info, FORMS[info.form](info, self.vocabulary), outcomes)
        for index, tokens in enumerate(parts):
            for token in tokens:
                reply.add(index, token)
            reply.end(index, turns[index].generation.finish_reason or "stop")
        reply.close()
        return reply

    async def _tokens(self, info: ReplyInfo, turn: Turn) -> list[Token]:
        generation = turn.generation
        assert generation.reply_id is not None  # noqa: S101 - the store's own check: it is complete
        path = await self.call(self._store.path_to, generation.reply_id)
        ids = path[-1].token_ids or ()
        texts = self._texts(ids, generation)
        if info.top_logprobs is None or not ids:
            return [Token(token_id, text) for token_id, text in zip(ids, texts, strict=True)]
        request = self._planner.again(path[:-2], turn.user.content, generation)
        seen = await self.score(request.prompt_ids, ids, info.top_logprobs)
        return [Token(*each) for each in zip(ids, texts, seen, strict=True)]

    def _texts(self, ids: Sequence[int], generation: Generation) -> list[str]:
        """Return the text that became certain with each token, as the decoder gave it."""
        model = self._planner.model
        settings = Settings.from_stored(generation.sampling, seed=0)
        own = [text.encode() for text in settings.stop]
        stream = Detokenizer(model.tokenizer.token_bytes, (*model.template.stop_sequences, *own))
        try:
            texts = [stream.push(token_id) for token_id in ids]
        except NielsGptError as error:
            raise ApiError(409, "this reply was made with another tokenizer") from error
        if texts and generation.finish_reason != "cancelled":
            texts[-1] += stream.finish()
        return texts

    async def score(self, prompt_ids: Sequence[int], ids: Sequence[int], count: int) -> list[TokenLogprobs]:
        """Return the log-probabilities of tokens after a prompt, computed in the reply's own arithmetic."""
        decoder = self._planner.model.decoder

        def work() -> list[TokenLogprobs]:
            rows = logits_rows(decoder, prompt_ids, ids)
            return [token_logprobs(token_id, row, count) for token_id, row in zip(ids, rows, strict=True)]

        return await anyio.to_thread.run_sync(work, limiter=self._rescoring_limiter)


def choice_names(response_id: str, count: int) -> list[str]:
    """Return the names of the sessions that hold a response's choices."""
    return [response_id, *(f"{response_id}.{index}" for index in range(1, count))]


def _prompt_tokens(generation: Generation) -> int:
    found = (generation.receipt or {}).get("prompt_tokens")
    return found if isinstance(found, int) else 0


def _session_seed(generation: Generation) -> int:
    source = generation.environment.get("seed_source")
    found = source.get("session_seed") if isinstance(source, Mapping) else None
    return found if isinstance(found, int) else generation.seed
