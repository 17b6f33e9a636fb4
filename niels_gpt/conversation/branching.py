"""Take a conversation another way: retry, edit, undo, redo, alternatives, forks. Nothing is overwritten.

Each adds a message next to another or moves the session's head; every reply that comes of it is stored with
all that it takes to repeat it. Runs on asyncio and trio.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from niels_gpt.conversation.conversation import Conversation, Listener, TurnResult
from niels_gpt.conversation.errors import SessionTrouble
from niels_gpt.conversation.session import ConversationSession
from sessions import Message, RecordedTurn, RecordNotFound, SessionExists


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One version of the last turn: a message, maybe an edited one, and a reply to it."""

    user: Message
    reply: Message
    current: bool


def last_question(session: ConversationSession, verb: str | None = None) -> Message:
    """Return the last user message of the path; SessionTrouble if there is none, so nothing to `verb`."""
    asked = [message for message in session.messages if message.role == "user"]
    if not asked:
        raise SessionTrouble("no reply yet" if verb is None else f"nothing to {verb} yet")
    return asked[-1]


async def last_turn(session: ConversationSession) -> RecordedTurn:
    """Return the last answered turn of the path, with how it was made; SessionTrouble if there is none."""
    turn = await session.last_turn()
    if turn is None:
        raise SessionTrouble("no reply yet")
    return turn


async def retry(conversation: Conversation, listener: Listener) -> TurnResult:
    """Answer the last message once more, under the next attempt's seed; the replies before stay stored."""
    session = conversation.session
    user = last_question(session, "retry")
    prepared = await conversation.prepare(
        user, session_seed=session.settings.seed, attempt=await session.next_attempt(user)
    )
    return await conversation.again(prepared, listener)


async def same_as(session: ConversationSession, reply: Message) -> int | None:
    """Return the number of the earlier version of the last turn with this reply's text; None if it is new."""
    for number, variant in enumerate(await variants(session), start=1):
        if variant.reply.id != reply.id and variant.reply.content == reply.content:
            return number
    return None


async def edit(conversation: Conversation, text: str, listener: Listener) -> TurnResult:
    """Ask something else in place of the last message, next to it in the tree."""
    return await conversation.edit(last_question(conversation.session, "edit"), text, listener)


async def undo(session: ConversationSession) -> Message:
    """Go back to before the last message, which is returned; it and what followed stay stored."""
    user = last_question(session, "undo")
    await session.step_back(user.parent_id)
    return user


async def redo(session: ConversationSession) -> None:
    """Bring back what the last undo or reset left; SessionTrouble if there is nothing."""
    if not await session.step_forward():
        raise SessionTrouble("nothing to redo; /tree shows every message, and /goto ID continues from one")


async def variants(session: ConversationSession) -> list[Variant]:
    """Return the versions of the last turn, oldest first."""
    user = last_question(session)
    path = {message.id for message in session.messages}
    return [
        Variant(user=turn.user, reply=turn.reply, current=turn.reply.id in path)
        for turn in await session.variants(user)
    ]


async def choose(session: ConversationSession, number: int) -> Variant:
    """Continue from one version of the last turn, counted from 1; SessionTrouble if there is none."""
    found = await variants(session)
    if not 1 <= number <= len(found):
        raise SessionTrouble(
            f"there are {len(found)} versions of this turn: /alt 1 to /alt {len(found)}"
            if len(found) > 1
            else "there is only one version of this turn; /retry makes another"
        )
    chosen = found[number - 1]
    await session.move_head(chosen.reply.id)
    return chosen


async def goto(session: ConversationSession, message_id: int) -> Message:
    """Continue from any message of the session's tree, by its id: the path then ends with it.

    Raises:
        SessionTrouble: The session has no such message.
    """
    if not session.exists:
        raise SessionTrouble("no messages yet")
    try:
        await session.step_back(message_id)
    except SessionTrouble as error:
        if isinstance(error.__cause__, RecordNotFound):
            raise SessionTrouble(
                f"this session has no message {message_id}; /tree shows their numbers"
            ) from error
        raise
    return session.messages[-1]


async def fork(session: ConversationSession, name: str) -> None:
    """Continue in a new session that shares the whole path."""
    await _fork(session, name, at=None, seed=None)


async def fork_at(
    conversation: Conversation,
    kept: int,
    listener: Listener,
    *,
    name: str | None = None,
    seed: int | None = None,
    token: str | None = None,
) -> TurnResult:
    """Continue in a new session whose last reply keeps the first tokens of this one's and then parts.

    Args:
        conversation: Where the last reply is.
        kept: How many of its tokens to keep.
        listener: Hears the new reply.
        name: The new session's name; None makes one from this session's.
        seed: The new session's seed; without it and `token` the reply is the next attempt.
        token: A text whose tokens follow the kept ones, before anything is drawn.

    Raises:
        ChatError: It cannot be done; then there is no new session.
    """
    session = conversation.session
    turn = await last_turn(session)
    ids = turn.reply.token_ids or ()
    most = len(ids) - (turn.generation.finish_reason == "stop")
    if kept > most:
        raise SessionTrouble(f"cannot keep {kept} tokens of the last reply: it has {most} before its end")
    forced_ids = ids[:kept]
    session_seed, attempt = session.settings.seed, turn.generation.attempt
    if token is not None:
        forced_ids += tuple(conversation.model.tokenizer.encode_ids(token))
    elif seed is not None:
        session_seed, attempt = seed, 0
    else:
        attempt = await session.next_attempt(turn.user)
    prepared = await conversation.prepare(
        turn.user, session_seed=session_seed, attempt=attempt, forced_ids=forced_ids
    )
    await _fork(session, name, at=turn.user.id, seed=seed)
    return await conversation.again(prepared, listener)


async def _fork(session: ConversationSession, name: str | None, *, at: int | None, seed: int | None) -> None:
    for tried in itertools.chain([name] if name else (), (f"{session.name}-{n}" for n in itertools.count(2))):
        try:
            await session.fork(tried, at=at, seed=seed)
        except SessionExists as error:
            if name is not None:
                raise SessionTrouble(f"name already in use: {name!r}; choose another") from error
        else:
            return
