"""Talk on and on in one session, in every way, until done or killed: `python -m tests.replay.long_session`.

Prints a line when a reply begins and one when a turn is stored, so that the caller knows when to kill
it. What a turn does follows from its number alone; a session that was cut off goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from pathlib import Path

import anyio

from niels_gpt.conversation import branching
from niels_gpt.conversation.conversation import Conversation
from niels_gpt.decoding.backend import Backend
from sessions import Store, open_store
from tests.replay.recordings import Ear, loaded, talking

NAME = "long"
QUESTIONS = (
    "hello",
    "what is a kv cache?",
    "who are you?",
    "how do i resume a session?",
    "thanks",
    "tell me more",
)
SAMPLINGS = ((0.9, 50, None), (0.0, None, None), (1.2, None, 0.9), (0.7, 20, 0.95), (1.0, None, None))


def main() -> int:
    """Talk until the session has as many turns as asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("store", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--turns", type=int, required=True)
    flags = parser.parse_args()
    with closing(loaded(flags.checkpoint)) as model, open_store(flags.store) as store:
        done = 0
        while done < flags.turns:
            # Each fork goes on in a session of its own; the next turn is the first one's again.
            done = anyio.run(until_fork, store, model, flags.turns)
    return 0


async def until_fork(store: Store, model: Backend, turns: int) -> int:
    """Go on until there are so many turns or the conversation has forked; how many there are."""
    async with talking(store, model, NAME, max_new_tokens=60) as conversation:
        turn = await _turns_so_far(conversation)
        while turn < turns:
            forked = await _one_turn(conversation, turn)
            turn += 1
            _tell(f"turn {turn}")
            if forked:
                break
    return turn


async def _turns_so_far(conversation: Conversation) -> int:
    """Count questions that were asked in a turn of their own: an edit is part of the turn before."""
    asked = [turn.user.content for turn in await conversation.session.recorded_turns(every_branch=True)]
    return len({content for content in asked if content[0].isdigit()})


async def _one_turn(conversation: Conversation, turn: int) -> bool:
    """One turn and what follows it; whether the conversation is in a fork now."""
    record, ear = conversation.session, Ear(lambda _: _tell(f"speaking {turn}"))
    temperature, top_k, top_p = SAMPLINGS[turn % len(SAMPLINGS)]
    for key, value in (("temperature", temperature), ("top_k", top_k), ("top_p", top_p)):
        await record.change(key, value)
    question = f"{turn} {QUESTIONS[turn % len(QUESTIONS)]}"
    if turn % 9 == 4:
        with anyio.CancelScope() as scope:
            await conversation.send(question, Ear(lambda _: scope.cancel()))
    else:
        await conversation.send(question, ear)
    if turn % 7 == 3:
        await branching.retry(conversation, ear)
    if turn % 10 == 5:
        await branching.edit(conversation, "no, something else", ear)
    if turn % 16 == 8:
        await branching.choose(record, 1)
        await record.change("seed", turn)
    if turn % 25 == 12:
        await record.reset()
    if turn % 12 == 6 and record.messages[-1].token_ids and len(record.messages[-1].token_ids) > 3:
        await branching.fork_at(conversation, 2, ear, name=f"fork {turn}")
        await conversation.send("and then?", ear)
        return True
    return False


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
