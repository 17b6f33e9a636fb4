"""A talker without a model: what it says is a function of the seed and the question, so that any process can
finish another's reply exactly. Each step is told once it is durable. Used by the campaigns beside this file.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sqlalchemy.orm import aliased
from sqlmodel import select

from sessions import Generation, Message, NewGeneration, Session, Store, Turn
from sessions.tables import CheckpointRow, GenerationRow, MessageRow

FINGERPRINT = "scripted"
Tell = Callable[[Message], None]


def scripted_reply(generation: Generation, question: Message) -> str:
    """Return the reply that this generation gives to this question, every time."""
    digest = hashlib.sha256(f"{generation.seed} {question.content}".encode()).hexdigest()
    return f"{digest} " * (1 + generation.seed % 40)


def finish(store: Store, turn: Turn) -> Message:
    """Store the scripted reply to a turn that waits for it."""
    reply = scripted_reply(turn.generation, turn.user)
    return store.finish_reply(
        turn.generation.id,
        content=reply,
        token_ids=list(reply[:64].encode()),
        status="complete",
        finish_reason="stop",
        receipt={"logits_hash": reply[:64]},
        timings={},
    )


def unscripted_replies(store: Store) -> list[int]:
    """Return the ids of replies that are not what their generation gives, those of the campaigns' stores."""
    user, reply = aliased(MessageRow), aliased(MessageRow)
    query = (
        select(GenerationRow, user, reply)
        .join(user, GenerationRow.user_message_id == user.id)
        .join(reply, GenerationRow.reply_id == reply.id)
        .join(CheckpointRow, GenerationRow.checkpoint_id == CheckpointRow.id)
        .where(CheckpointRow.fingerprint == FINGERPRINT)
    )
    with store._database.reading() as transaction:
        return [
            answer.id
            for generation, asked, answer in transaction.exec(query)
            if answer.content != scripted_reply(generation, asked)
        ]


def asked(store: Store, seed: int) -> NewGeneration:
    """Return what a scripted reply is asked for with."""
    checkpoint = store.remember_checkpoint(fingerprint=FINGERPRINT, parts={}, config={}, step=None, path="")
    return NewGeneration(
        checkpoint_id=checkpoint,
        seed=seed,
        attempt=0,
        sampling={"temperature": 0.9},
        max_new_tokens=64,
        prompt_hash="",
        trimmed_turns=0,
        environment={},
    )


@dataclass
class Talker:
    """Talks in one store without end: turns, retries, forks, moves of the head, in its seed's order."""

    store: Store
    seed: int
    tell: Tell

    def steps(self) -> Iterator[None]:
        """Do one thing after another, each told when it is durable; one session after a fork or two."""
        chance = random.Random(self.seed)
        session = self._open(f"talk {self.seed % 3}")
        while True:
            session = self._step(session, chance)
            yield

    def _open(self, name: str) -> Session:
        if name not in self.store.names():
            self._told(self.store.create_session(name, seed=1, system="be brief", settings={}))
        session = self.store.session(name)
        interrupted = self.store.pending(session.id)
        if interrupted is not None:
            self.tell(finish(self.store, interrupted))
        return self.store.session(name)

    def _step(self, session: Session, chance: random.Random) -> Session:
        kind = chance.choices(("turn", "retry", "fork", "back"), (70, 12, 9, 9))[0]
        users = [message for message in self.store.path(session.id) if message.role == "user"]
        if kind == "fork":
            name = f"fork {self.seed} {chance.random()}"
            return self._told(self.store.fork(session.id, name=name))
        if kind == "back" and users:
            head = chance.choice(users).parent_id
            return self.store.move_head(session.id, to=head, expected_head=session.head_id)
        generation = asked(self.store, chance.randrange(2**63))
        if kind == "retry" and users:
            turn = self.store.begin_retry(
                session.id, user_message_id=chance.choice(users).id, generation=generation
            )
        else:
            content = f"{chance.random()} " * chance.choice((1, 40, 400))
            turn = self.store.begin_turn(
                session.id, content=content, expected_head=session.head_id, generation=generation
            )
            self.tell(turn.user)
        self.tell(finish(self.store, turn))
        return self.store.session(session.name)

    def _told(self, session: Session) -> Session:
        for message in self.store.path(session.id)[-1:]:
            self.tell(message)
        return session
