"""One session of the store as a conversation needs it: its path, its settings, its system prompt.

The session is created with the first message, so a program that was opened and left leaves nothing behind.
Every call of the store runs off the event loop, one at a time, and what this object knows changes only after
the last of a call's waits: a cancellation leaves it as before or as after, never half of each. The store's
errors become ChatError here. Runs on asyncio and trio.

A reply that the store cannot take at the moment (it is locked, the disk is full) is kept in memory. Every
later change stores it first, and `save` tries again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from itertools import count
from typing import TypeVar

import anyio
import anyio.to_thread

from niels_gpt.conversation.context import PathMessage, TextMessage, system_of
from niels_gpt.conversation.errors import NotStoredYet, SessionTrouble
from niels_gpt.conversation.reply_keeper import Outcome, Reply, ReplyKeeper, unsaved_message
from niels_gpt.conversation.settings import Settings, Value
from niels_gpt.text.system_prompt import DEFAULT_SYSTEM_PROMPT
from sessions import (
    Checkpoint,
    HeadMoved,
    Message,
    NewGeneration,
    RecordedTurn,
    RecordNotFound,
    ReplyPending,
    Session,
    SessionExists,
    SessionNotFound,
    Store,
    StoreClosed,
    StoreError,
    Turn,
)

T = TypeVar("T")

_WORD = re.compile(r"[^\W_]+")
_LONGEST_TITLE, _MOST_NAMES = 40, 100_000


def _local_now() -> datetime:
    return datetime.now().astimezone()


def title_of(content: str) -> str:
    """Return a name for a session made of a message's first words, easy to type; "" where it has none."""
    title = ""
    for word in _WORD.findall(content.split("\n", 1)[0].lower()):
        longer = f"{title}-{word}" if title else word[:_LONGEST_TITLE]
        if len(longer) > _LONGEST_TITLE:
            break
        title = longer
    return title


class ConversationSession:
    """The open session, or the one to be.

    Args:
        store: Where it is kept.
        name: Its name; None makes one from the first message when the session is created.
        settings: What the user gave by flags: it wins over what a resumed session holds, and becomes part of
            it, as the commands would.
        system: The system prompt that the user gave, likewise.
        now: The clock for names by date.
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
        self._saving = anyio.Lock()
        self._stored: Session | None = None
        self._keeper = ReplyKeeper(store, self._limiter)
        self._left: list[int] = []
        self.settings = Settings().with_values(self._given_settings)
        self._system: str | None = DEFAULT_SYSTEM_PROMPT if system is None else system or None
        self.messages: list[Message] = []
        self.on_unsaved: Callable[[], None] = lambda: None
        """Called when a reply is kept in memory; the callback's owner calls `save` until that succeeds."""

    @property
    def name(self) -> str | None:
        """The session's name, None while it has none."""
        return self._stored.name if self._stored else self._name

    @property
    def exists(self) -> bool:
        """Whether there is something to resume."""
        return self._stored is not None

    @property
    def system(self) -> str | None:
        """The system prompt that counts: the last one on the path."""
        return self._system

    @property
    def path(self) -> Sequence[PathMessage]:
        """What stands before the next message: `messages`, or the system prompt of a session to be."""
        if self._stored is None and self._system is not None:
            return [TextMessage(role="system", content=self._system)]
        return self.messages

    @property
    def stored(self) -> Session | None:
        """The store's record of the session as it was last read, None while it has no message."""
        return self._stored

    @property
    def unsaved(self) -> str | None:
        """Why the last reply is not stored yet; None when everything is."""
        return None if self._keeper.kept is None else self._keeper.kept.trouble

    @property
    def turns(self) -> int:
        """How many messages of the user are on the path."""
        return sum(message.role == "user" for message in self.messages)

    async def open(self) -> bool:
        """Read the named session; False if there is none yet. Call `adopt` before the first message.

        Raises:
            SessionTrouble: It is archived, damaged, or cannot be read.
        """
        if self._name is None:
            return False
        try:
            session, path = await self._call(self._with_path, self._store.session, self._name)
        except SessionNotFound:
            return False
        if session.archived:
            raise SessionTrouble(
                f"{session.name!r} is archived: run niels-chat restore {session.name}, or choose another name"
            )
        try:
            settings = Settings.from_stored(session.settings, seed=session.seed)
        except ValueError as error:
            raise SessionTrouble(f"a setting of session {session.name!r} is damaged: {error}") from error
        self._take(session, path)
        self.settings = settings
        return True

    async def adopt(self) -> None:
        """Apply what was given by flags to a resumed session, after an interrupted reply was finished."""
        if self._stored is None:
            return
        for key, value in self._given_settings.items():
            await self.change(key, value)
        if self._given_system is not None and (self._given_system or None) != self._system:
            await self.set_system(self._given_system)

    async def change(self, key: str, value: Value) -> None:
        """Set one setting, which has been read from the table; nothing is written if it is set already."""
        settings = self.settings.with_values({key: value})
        if self._stored is not None and settings != self.settings:
            self._stored = await self._call(
                self._store.update_settings,
                self._stored.id,
                settings=settings.stored(),
                seed=settings.seed,
            )
        self.settings = settings

    async def set_system(self, text: str) -> None:
        """Make `text` the system prompt from the next message on; an empty one is none at all."""
        await self.save()
        if self._stored is not None:
            await self._move(
                self._store.set_system, self._stored.id, text, expected_head=self._stored.head_id
            )
        self._system = text or None

    async def reset(self) -> None:
        """Start a new conversation under the same system prompt; the old one stays in the store."""
        await self.save()
        if self._stored is not None:
            left = self._stored.head_id
            await self._move(
                self._store.reset, self._stored.id, system=self._system, expected_head=self._stored.head_id
            )
            self._remember_left(left)

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

    async def checkpoint(self, checkpoint_id: int) -> Checkpoint:
        """Return what the store knows of a checkpoint."""
        return await self._call(self._store.checkpoint, checkpoint_id)

    async def begin_turn(self, content: str, generation: NewGeneration) -> Turn:
        """Store a user's message and the generation that it asks for, durably."""
        await self.save()
        session = self._stored or await self._create(content)
        turn = await self._changing(
            self._store.begin_turn,
            session.id,
            content=content,
            expected_head=session.head_id,
            generation=generation,
        )
        self._stored = turn.session
        self.messages.append(turn.user)
        self._left.clear()
        return turn

    async def begin_edit(self, user: Message, content: str, generation: NewGeneration) -> Turn:
        """Store another message in the place of one of the path, and the generation that it asks for.

        If the store refuses the message, the session stays where it was.
        """
        await self.save()
        session = self._required()
        turn = await self._changing(
            self._store.begin_edit,
            session.id,
            user_message_id=user.id,
            content=content,
            expected_head=session.head_id,
            generation=generation,
        )
        self._take(turn.session, [*self.messages[: user.position], turn.user])
        self._left.clear()
        return turn

    async def begin_retry(self, user: Message, generation: NewGeneration) -> Turn:
        """Store another attempt at the reply to a message that is stored already."""
        await self.save()
        turn = await self._changing(
            self._store.begin_retry,
            user.session_id if self._stored is None else self._stored.id,
            user_message_id=user.id,
            generation=generation,
            expected_head=None if self._stored is None else self._stored.head_id,
        )
        self._stored = turn.session
        return turn

    async def move_head(self, to: int | None) -> None:
        """Continue from another message of the session's tree, None for its very beginning."""
        await self.save()
        if self._stored is not None:
            head = self._stored.head_id
            await self._move(self._store.move_head, self._stored.id, to=to, expected_head=head)

    async def step_back(self, to: int | None) -> None:
        """Move to an earlier message, so that `step_forward` comes back."""
        await self.save()
        left = None if self._stored is None else self._stored.head_id
        await self.move_head(to)
        self._remember_left(left)

    async def step_forward(self) -> bool:
        """Undo the last `step_back` or `reset`; False if there is none since the last message."""
        if not self._left:
            return False
        await self.move_head(self._left[-1])
        self._left.pop()
        return True

    async def fork(self, name: str, *, at: int | None = None, seed: int | None = None) -> None:
        """Continue in a new session that shares this one's messages up to `at` (None: all of the path)."""
        await self.save()
        origin = self._required("nothing to fork yet")
        # At this path's own end: another program may have continued the session meanwhile.
        at = origin.head_id if at is None else at
        session, path = await self._call(
            self._with_path, self._store.fork, origin.id, name=name, at=at, seed=seed
        )
        self._take(session, path)
        self._left.clear()
        self.settings = replace(self.settings, seed=session.seed)

    async def rename(self, name: str) -> None:
        """Give the session another name, or choose the one that it will have. Raises SessionTrouble."""
        if self._stored is None:
            self._name = name
            return
        try:
            self._stored = await self._call(self._store.rename, self._stored.id, name)
        except SessionExists as error:
            raise SessionTrouble(f"name already in use: {name!r}; choose another") from error

    async def recorded_turns(self, *, every_branch: bool = False) -> list[RecordedTurn]:
        """Return the answered turns of the path, or of the whole tree."""
        if self._stored is None:
            return []
        return await self._call(self._store.recorded_turns, self._stored.id, every_branch=every_branch)

    async def last_turn(self) -> RecordedTurn | None:
        """Return the last answered turn of the path, with how it was made; None if there is none."""
        return None if self._stored is None else await self._call(self._store.last_turn, self._stored.id)

    async def variants(self, user: Message) -> list[RecordedTurn]:
        """Return every answered turn in the place of a message, edited ones too, oldest first."""
        if self._stored is None:
            return []
        return await self._call(self._store.variants, self._stored.id, user.id)

    async def next_attempt(self, user: Message) -> int:
        """Return the number of the next attempt at a reply to a message, whatever became of those before."""
        if self._stored is None:
            return 0
        return await self._call(self._store.next_attempt, self._stored.id, user.id)

    async def pending(self) -> Turn | None:
        """Return the turn whose reply was interrupted, if there is one at the head."""
        if self._stored is None:
            return None
        return await self._call(self._store.pending, self._stored.id)

    async def finish(self, generation_id: int, reply: Reply) -> Message:
        """Store a reply, durably, or keep it in memory while the store cannot take it (see `unsaved`)."""
        stored = await self._conclude(Outcome(generation_id=generation_id, reply=reply))
        return stored or unsaved_message(reply, self.messages)

    async def fail(self, generation_id: int, error: str) -> None:
        """Store that no reply came of a generation; its message stays."""
        await self._conclude(Outcome(generation_id=generation_id, error=error))

    async def save(self) -> None:
        """Store the reply that was kept in memory; nothing where there is none.

        Raises:
            NotStoredYet: The store still cannot take it.
        """
        async with self._saving:
            if self._keeper.kept is None:
                return
            await self._conclude(self._keeper.kept)
            if self.unsaved is not None:
                raise NotStoredYet(
                    f"the last reply is not stored yet ({self.unsaved}): it is kept and tried again, "
                    "nothing else was stored; repeat this in a moment"
                )

    async def _conclude(self, outcome: Outcome) -> Message | None:
        """Store an outcome; None for a reply that is kept in memory, and for a failure."""
        try:
            message = await self._keeper.conclude(outcome)
        except StoreClosed as error:
            raise SessionTrouble(str(error)) from error
        except StoreError as error:
            # Another program finished or deleted it meanwhile: what the store has is what counts.
            await self._reread()
            raise SessionTrouble(str(error)) from error
        if self._keeper.kept is not None:
            if outcome.reply is not None:
                self._place(unsaved_message(outcome.reply, self.messages))
            self.on_unsaved()
        elif message is not None:
            self._place(message)
            if self._stored is not None:
                self._stored = replace(self._stored, head_id=message.id)
        return message

    def _place(self, message: Message) -> None:
        """Put a reply on the path, in the place of another attempt at it."""
        self.messages = [each for each in self.messages if each.position < message.position] + [message]

    async def _create(self, content: str) -> Session:
        stem = self._name or title_of(content) or f"chat-{self._now():%Y-%m-%d}"
        numbers, taken = count(2), set[str]()
        name = stem
        while True:
            try:
                session, path = await self._call(
                    self._with_path,
                    self._store.create_session,
                    name,
                    seed=self.settings.seed,
                    system=self._system,
                    settings=self.settings.stored(),
                )
            except SessionExists as error:
                if self._name is not None:
                    raise SessionTrouble(
                        f"another program just created {name!r}: type /resume {name}, then send it again"
                    ) from error
                # All at once: the same first message may have been sent a thousand times.
                taken = taken or {stem, *await self._call(self._store.names, stem, _MOST_NAMES)}
                name = next(found for n in numbers if (found := f"{stem}-{n}") not in taken)
            else:
                self._take(session, path)
                return session

    def _required(self, otherwise: str = "nothing was said yet") -> Session:
        if self._stored is None:
            raise SessionTrouble(otherwise)
        return self._stored

    def _take(self, session: Session, path: list[Message]) -> None:
        self._stored = session
        self.messages = path
        self._system = system_of(path)

    def _remember_left(self, head: int | None) -> None:
        if head is not None:
            self._left.append(head)

    async def _move(self, function: Callable[..., Session], *args: object, **values: object) -> None:
        """Change the session's head, and take over what it is then."""
        self._take(*await self._changing(self._with_path, function, *args, **values))

    def _with_path(
        self, function: Callable[..., Session], *args: object, **values: object
    ) -> tuple[Session, list[Message]]:
        """Call the store for a session, and read its path; blocks."""
        session = function(*args, **values)
        return session, self._store.path(session.id)

    async def _changing(self, function: Callable[..., T], *args: object, **values: object) -> T:
        """Call what may find that another program continued the session; `save` comes before."""
        try:
            return await self._call(function, *args, **values)
        except (HeadMoved, ReplyPending) as error:
            old = self.name
            await self._reread()
            renamed = "" if self.name == old else f" (it is called {self.name!r} now)"
            what = (
                f"another program writes a reply in session {old!r}{renamed}, or was stopped while it did; "
                f"nothing was stored: wait, or finish it with /resume {self.name}"
                if isinstance(error, ReplyPending)
                else f"session {old!r} is in use by another program{renamed}; nothing was stored: "
                "read its new messages with /history, then send yours again"
            )
            raise SessionTrouble(what) from error

    async def _reread(self) -> None:
        """Read the session again, by its id: another program may have renamed it."""
        if self._stored is None:
            return
        self._take(*await self._call(self._with_path, self._store.session_by_id, self._stored.id))

    async def _call(self, function: Callable[..., T], *args: object, **values: object) -> T:
        """Call the store; its errors become SessionTrouble, but for those that callers here tell apart."""
        try:
            return await self._call_store(partial(function, *args, **values))
        except (SessionNotFound, SessionExists, HeadMoved, ReplyPending):
            raise
        except RecordNotFound as error:
            if error.kind == "session":
                raise SessionTrouble(
                    f"session {self.name!r} was deleted by another program; nothing was stored: "
                    "/resume NAME opens another session"
                ) from error
            raise SessionTrouble(str(error)) from error
        except StoreError as error:
            raise SessionTrouble(str(error)) from error

    async def _call_store(self, function: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(function, limiter=self._limiter)
