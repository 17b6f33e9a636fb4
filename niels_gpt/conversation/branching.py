"""Other ways for a conversation to go: retry, edit, undo, alternatives, forks. Nothing is ever overwritten.

Each adds a message beside another or moves the session's head; every reply that comes of it is stored with
all that it takes to repeat it. Runs on asyncio and trio.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from niels_gpt.conversation.conversation import Conversation, Listener, TurnResult
from niels_gpt.conversation.errors import SessionTrouble
from niels_gpt.conversation.session import ConversationSession
from sessions import Message, RecordedTurn, SessionExists


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One version of the last turn: a message, maybe an edited one, and a reply to it."""

    user: Message
    reply: Message
    current: bool


def last_question(record: ConversationSession) -> Message:
    """Return the last user message of the path; SessionTrouble if there is none."""
    asked = [message for message in record.messages if message.role == "user"]
    if not asked:
        raise SessionTrouble("nothing was said yet")
    return asked[-1]


async def last_turn(record: ConversationSession) -> RecordedTurn:
    """Return the last answered turn of the path, with how it was made; SessionTrouble if there is none."""
    turns = await record.recorded_turns()
    if not turns:
        raise SessionTrouble("there is no reply yet")
    return turns[-1]


async def retry(conversation: Conversation, listener: Listener) -> TurnResult:
    """Answer the last message once more, under the next attempt's seed; the replies before stay stored."""
    record = conversation.record
    user = last_question(record)
    prepared = await conversation.prepare(
        user, session_seed=record.settings.seed, attempt=await _next_attempt(record, user)
    )
    return await conversation.again(prepared, listener)


async def edit(conversation: Conversation, text: str, listener: Listener) -> TurnResult:
    """Ask something else in place of the last message, beside it in the tree."""
    record = conversation.record
    user = last_question(record)
    conversation.check(text, record.messages[: user.position])
    await record.move_head(user.parent_id)
    return await conversation.send(text, listener)


async def undo(record: ConversationSession) -> Message:
    """Go back to before the last message, which is returned; it and what followed stay stored."""
    user = last_question(record)
    await record.move_head(user.parent_id)
    return user


async def variants(record: ConversationSession) -> list[Variant]:
    """Return the versions of the last turn, oldest first."""
    user = last_question(record)
    path = {message.id for message in record.messages}
    return [
        Variant(user=turn.user, reply=turn.reply, current=turn.reply.id in path)
        for turn in await record.recorded_turns(every_branch=True)
        if turn.user.parent_id == user.parent_id
    ]


async def choose(record: ConversationSession, number: int) -> Variant:
    """Go on from one version of the last turn, counted from 1; SessionTrouble if there is no such one."""
    found = await variants(record)
    if not 1 <= number <= len(found):
        raise SessionTrouble(f"there is no alternative {number}: choose 1 to {len(found)}")
    chosen = found[number - 1]
    await record.move_head(chosen.reply.id)
    return chosen


async def fork(record: ConversationSession, name: str) -> None:
    """Go on in a new session that shares the whole path."""
    await _fork(record, name, at=None, seed=None)


async def fork_at(
    conversation: Conversation,
    kept: int,
    listener: Listener,
    *,
    name: str | None = None,
    seed: int | None = None,
    token: str | None = None,
) -> TurnResult:
    """Go on in a new session whose last reply keeps the first `kept` tokens of this one's, then parts.

    Under a new session seed, or with the tokens of a forced text and the old draws after them, or else under
    the next attempt's seed. Without a name one is made from this session's. Raises SessionTrouble, ChatError,
    MessageTooLong; then there is no new session.
    """
    record = conversation.record
    turn = await last_turn(record)
    ids = turn.reply.token_ids or ()
    most = len(ids) - (turn.generation.finish_reason == "stop")
    if kept > most:
        raise SessionTrouble(f"cannot keep {kept} tokens of the last reply: it has {most} before its end")
    forced_ids = ids[:kept]
    session_seed, attempt = record.settings.seed, turn.generation.attempt
    if token is not None:
        forced_ids += conversation.model.encode(token)
    elif seed is not None:
        session_seed, attempt = seed, 0
    else:
        attempt = await _next_attempt(record, turn.user)
    prepared = await conversation.prepare(
        turn.user, session_seed=session_seed, attempt=attempt, forced_ids=forced_ids
    )
    await _fork(record, name, at=turn.user.id, seed=seed)
    return await conversation.again(prepared, listener)


async def _fork(record: ConversationSession, name: str | None, *, at: int | None, seed: int | None) -> None:
    for tried in itertools.chain([name] if name else (), (f"{record.name}-{n}" for n in itertools.count(1))):
        try:
            await record.fork(tried, at=at, seed=seed)
        except SessionExists as error:
            if name is not None:
                raise SessionTrouble(str(error)) from error
        else:
            return


async def _next_attempt(record: ConversationSession, user: Message) -> int:
    """Return the number of the next attempt at a reply to a message, whatever became of those before."""
    known = [
        *(each.attempt for each in await record.generations() if each.user_message_id == user.id),
        *(
            turn.generation.attempt
            for turn in await record.recorded_turns(every_branch=True)
            if turn.user.id == user.id
        ),
    ]
    return max(known, default=-1) + 1
