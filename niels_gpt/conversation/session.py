"""One session of the store as a conversation needs it: its path, its settings, its system prompt.

The session is created with the first message, so a program that was opened and left leaves nothing behind.
Every call of the store runs off the event loop, one at a time; the store's errors become ChatError here.
Runs on asyncio and trio.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from itertools import count
from typing import TypeVar

import anyio
import anyio.to_thread

from niels_gpt.conversation.context import system_of
from niels_gpt.conversation.errors import LoadFailed, SessionTrouble
from niels_gpt.conversation.options import ChatOptions
from niels_gpt.conversation.settings import Settings, Value
from niels_gpt.text.system_prompt import DEFAULT_SYSTEM_PROMPT
from sessions import (
    Generation,
    HeadMoved,
    Message,
    NewGeneration,
    RecordedTurn,
    ReplyPending,
    Session,
    SessionExists,
    SessionNotFound,
    Store,
    StoreError,
    Turn,
)
from sessions import open_store as open_session_store

T = TypeVar("T")


def _local_now() -> datetime:
    return datetime.now().astimezone()


class ConversationSession:
    """The open session, or the one to be.

    `name` None: a name is made from the date when the session is created. `settings` and `system` are
    what the user gave by flags: they win over what a resumed session holds, and become part of it, as
    the commands would.
    """

    def __init__(
        self,
        store: Store,
        *,
        name: str | None = None,
        settings: Mapping[str, Value] | None = None,
        system: str | None = None,
        now: Callable[[], datetime] = _local_now,
    ) -> None:
        self._store = store
        self._name = name
        self._given_settings = dict(settings or {})
        self._given_system = system
        self._now = now
        self._limiter = anyio.CapacityLimiter(1)
        self._session: Session | None = None
        self.settings = Settings().with_values(self._given_settings)
        self._system: str | None = DEFAULT_SYSTEM_PROMPT if system is None else system or None
        self.messages: list[Message] = []

    @property
    def name(self) -> str | None:
        """The session's name, None while it has none."""
        return self._session.name if self._session else self._name

    @property
    def exists(self) -> bool:
        """Whether there is something to resume."""
        return self._session is not None

    @property
    def system(self) -> str | None:
        """The system prompt that counts: the last one on the path."""
        return self._system

    @property
    def reply_position(self) -> int:
        """Where the reply to a message that is sent now will stand on the path."""
        if self._session is None:
            return 1 + (self._system is not None)
        return (self.messages[-1].position + 1 if self.messages else 0) + 1

    @property
    def session(self) -> Session | None:
        """The session as it was last read, None while it has no message."""
        return self._session

    async def open(self) -> bool:
        """Read the named session; False if there is none yet. Call `adopt` before the first message."""
        if self._name is None:
            return False
        try:
            session = await self._call(self._store.session, self._name)
        except SessionNotFound:
            return False
        await self._read(session)
        try:
            self.settings = Settings.from_stored(session.settings, seed=session.seed)
        except ValueError as error:
            raise SessionTrouble(f"a setting of session {session.name!r} is damaged: {error}") from error
        return True

    async def adopt(self) -> None:
        """Apply what was given by flags to a resumed session, after an interrupted reply was finished."""
        if self._session is None:
            return
        for key, value in self._given_settings.items():
            await self.change(key, value)
        if self._given_system is not None and (self._given_system or None) != self._system:
            await self.set_system(self._given_system)

    async def change(self, key: str, value: Value) -> None:
        """Set one setting, which has been read from the table; nothing is written if it is set already."""
        settings = self.settings.with_values({key: value})
        if self._session is not None and settings != self.settings:
            self._session = await self._call(
                self._store.update_settings,
                self._session.id,
                settings=settings.stored(),
                seed=settings.seed,
            )
        self.settings = settings

    async def set_system(self, text: str) -> None:
        """Make `text` the system prompt from the next message on; an empty one is none at all."""
        if self._session is not None:
            session = await self._moving(
                self._store.set_system, self._session.id, text, expected_head=self._session.head_id
            )
            await self._read(session)
        self._system = text or None

    async def reset(self) -> None:
        """Begin the conversation anew under the same system prompt; the old one stays in the store."""
        if self._session is not None:
            session = await self._moving(
                self._store.reset,
                self._session.id,
                system=self._system,
                expected_head=self._session.head_id,
            )
            await self._read(session)

    async def remember_checkpoint(
        self,
        *,
        fingerprint: str,
        parts: Mapping[str, str],
        config: Mapping[str, object],
        step: int | None,
        path: str,
    ) -> int:
        """Return the store's id of a checkpoint."""
        return await self._call(
            self._store.remember_checkpoint,
            fingerprint=fingerprint,
            parts=parts,
            config=config,
            step=step,
            path=path,
        )

    async def begin_turn(self, content: str, generation: NewGeneration) -> Turn:
        """Store a user's message and the generation that it asks for, durably."""
        session = self._session or await self._create()
        turn = await self._moving(
            self._store.begin_turn,
            session.id,
            content=content,
            expected_head=session.head_id,
            generation=generation,
        )
        self._session = turn.session
        self.messages.append(turn.user)
        return turn

    async def begin_retry(self, user: Message, generation: NewGeneration) -> Turn:
        """Ask for another attempt at the reply to a message that is stored already."""
        turn = await self._moving(
            self._store.begin_retry,
            user.session_id if self._session is None else self._session.id,
            user_message_id=user.id,
            generation=generation,
            expected_head=None if self._session is None else self._session.head_id,
        )
        self._session = turn.session
        return turn

    async def move_head(self, to: int | None) -> None:
        """Go on from another message of the session's tree, None for its very beginning; nothing is lost."""
        if self._session is not None:
            head = self._session.head_id
            await self._read(
                await self._moving(self._store.move_head, self._session.id, to=to, expected_head=head)
            )

    async def fork(self, name: str, *, at: int | None = None, seed: int | None = None) -> None:
        """Go on in a new session that shares this one's messages up to `at` (None: all of the path)."""
        if self._session is None:
            raise SessionTrouble("nothing was said yet: there is nothing to fork")
        session = await self._call(self._store.fork, self._session.id, name=name, at=at, seed=seed)
        self.settings = replace(self.settings, seed=session.seed)
        await self._read(session)

    async def rename(self, name: str) -> None:
        """Give the session another name, or choose the one that it will have. Raises SessionTrouble."""
        if self._session is None:
            self._name = name
            return
        try:
            self._session = await self._call(self._store.rename, self._session.id, name)
        except SessionExists as error:
            raise SessionTrouble(str(error)) from error

    async def recorded_turns(self, *, every_branch: bool = False) -> list[RecordedTurn]:
        """Return the answered turns of the path, or of the whole tree."""
        if self._session is None:
            return []
        return await self._call(self._store.recorded_turns, self._session.id, every_branch=every_branch)

    async def generations(self) -> list[Generation]:
        """Return every attempt at a reply in this session, oldest first."""
        return [] if self._session is None else await self._call(self._store.generations, self._session.id)

    async def pending(self) -> Turn | None:
        """Return the turn whose reply was interrupted, if there is one at the head."""
        if self._session is None:
            return None
        return await self._call(self._store.pending, self._session.id)

    async def finish(
        self,
        generation_id: int,
        *,
        content: str,
        token_ids: tuple[int, ...],
        reason: str,
        receipt: Mapping[str, object],
        timings: Mapping[str, object],
    ) -> Message:
        """Store a reply, durably; `reason` "cancelled" makes it a cancelled one."""
        message = await self._call(
            self._store.finish_reply,
            generation_id,
            content=content,
            token_ids=token_ids,
            status="cancelled" if reason == "cancelled" else "complete",
            finish_reason=reason,
            receipt=receipt,
            timings=timings,
        )
        if self._session is not None:
            self._session = replace(self._session, head_id=message.id)
        # Another attempt at a reply takes the place of the one before.
        self.messages = [each for each in self.messages if each.position < message.position]
        self.messages.append(message)
        return message

    async def fail(self, generation_id: int, error: str) -> None:
        """Store that a generation broke; its message stays, without a reply."""
        await self._call(self._store.fail_generation, generation_id, error=error)

    async def _create(self) -> Session:
        names = iter([self._name]) if self._name is not None else self._dated_names()
        for name in names:
            try:
                session = await self._call(
                    self._store.create_session,
                    name,
                    seed=self.settings.seed,
                    system=self._system,
                    settings=self.settings.stored(),
                )
            except SessionExists as error:
                if name == self._name:
                    raise SessionTrouble(f"{error} (another program made it just now)") from error
            else:
                await self._read(session)
                return session
        raise AssertionError("the names by date never end")

    def _dated_names(self) -> Iterator[str]:
        stem = f"chat-{self._now():%Y-%m-%d}"
        yield stem
        for number in count(2):
            yield f"{stem}-{number}"

    async def _read(self, session: Session) -> None:
        self._session = session
        self.messages = await self._call(self._store.path, session.id)
        self._system = system_of(self.messages)

    async def _moving(self, function: Callable[..., T], *args: object, **values: object) -> T:
        """Call what may find that another program went on with the session."""
        try:
            return await self._call(function, *args, **values)
        except (HeadMoved, ReplyPending) as error:
            if self._session is not None:
                await self._read(await self._call(self._store.session, self._session.name))
            raise SessionTrouble(
                f"session {self.name!r} is in use by another program; nothing was stored: "
                "read its new messages with /history, then send yours again"
            ) from error

    async def _call(self, function: Callable[..., T], *args: object, **values: object) -> T:
        try:
            return await anyio.to_thread.run_sync(partial(function, *args, **values), limiter=self._limiter)
        except (SessionNotFound, SessionExists, HeadMoved, ReplyPending):
            raise
        except StoreError as error:
            raise SessionTrouble(str(error)) from error


def open_store(options: ChatOptions) -> Store:
    """Open the store that the options name; LoadFailed."""
    try:
        # A folder that was mistyped is not created, and a new store with a name is announced.
        named = options.store is not None and not options.ephemeral
        return open_session_store(options.store, missing="create file" if named else "create")
    except StoreError as error:
        raise LoadFailed(str(error)) from error


def new_record(store: Store, options: ChatOptions) -> ConversationSession:
    """Return the record of the session that the options name; call `open` on it."""
    return ConversationSession(store, name=options.session, settings=options.settings, system=options.system)
