"""Appends turns to a store for ever, and says on stdout what is durable: the process that the tests kill.

Usage: append_until_killed.py STORE SESSION [--without-commit]. Each line is a message's id and its digest.
With --without-commit nothing is ever committed, so one message is acknowledged falsely, and no more come.
"""

from __future__ import annotations

import itertools
import sys

from sessions import Message, NewGeneration, open_store


def acknowledge(message: Message) -> None:
    print(message.id, message.digest, flush=True)


def main(store_path: str, name: str, *, commits: bool) -> None:
    store = open_store(store_path)
    checkpoint = store.remember_checkpoint(fingerprint="f", parts={}, config={}, step=None, path="")
    asked = NewGeneration(
        checkpoint_id=checkpoint,
        seed=1,
        attempt=0,
        sampling={},
        max_new_tokens=8,
        prompt_hash="",
        trimmed_turns=0,
        environment={},
    )
    session = store.session(name)
    interrupted = store.pending(session.id)
    if interrupted is not None:
        store.fail_generation(interrupted.generation.id, error="killed")
    if not commits:
        store._database._engine.dialect.do_commit = lambda _connection: None
    head = session.head_id
    for number in itertools.count():
        turn = store.begin_turn(
            session.id, content=f"message {number} " * 200, expected_head=head, generation=asked
        )
        acknowledge(turn.user)
        if not commits:
            sys.stdin.read()
        reply = store.finish_reply(
            turn.generation.id,
            content=f"reply {number}",
            token_ids=range(64),
            status="complete",
            finish_reason="stop",
            receipt={},
            timings={},
        )
        acknowledge(reply)
        head = reply.id


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], commits="--without-commit" not in sys.argv)
