"""A state machine over everything that one conversation can meet, against a model in dictionaries.

    python -m tests.conversation.machine --steps 10000

The program under test is a ConversationSession with a scripted model over a real store. The model knows every
message that was stored, which of them is the head, and the texts on the path. Another program renames, sends
and deletes in the same store. Any step may be cancelled at its n-th wait.

What must hold after each step: the path in memory is the one in the store, it is the path of the model, and
the prompt of every reply was made from it.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import tempfile
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
from hypothesis import HealthCheck, Phase, settings, strategies
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from engine import Engine
from niels_gpt.conversation import branching
from niels_gpt.conversation.context import prompt_hash
from niels_gpt.conversation.conversation import Conversation
from niels_gpt.conversation.errors import ChatError
from niels_gpt.conversation.listener import Listener
from niels_gpt.conversation.planning import fit_turn
from niels_gpt.conversation.session import ConversationSession
from niels_gpt.conversation.settings import Settings
from sessions import RecordedTurn, RecordNotFound, Session, Store, StoreLocked, open_store
from tests.chat.scripted_model import ScriptedModel

TEXTS = strategies.sampled_from(["hi", "what is rope", "and then", "thanks", "why"])
AT = strategies.one_of(strategies.none(), strategies.integers(1, 12))
"""At which wait a step is cancelled; None: at none."""


async def cancelled_at(work: Coroutine[Any, Any, None], at: int | None) -> bool:
    """Run a coroutine and cancel it at its n-th wait; True if that is how it ended."""
    scope = anyio.CancelScope()

    @types.coroutine
    def counted() -> Generator[Any, Any, None]:
        steps = work.__await__()
        go_on, value = steps.send, None
        for number in itertools.count(1):
            try:
                waited = go_on(value)
            except StopIteration:
                return
            if number == at:
                scope.cancel()
            try:
                value = yield waited
                go_on = steps.send
            except BaseException as error:  # noqa: BLE001 - passed on to where it belongs
                value, go_on = error, steps.throw

    with scope:
        await counted()
    return scope.cancelled_caught


class ConversationMachine(RuleBasedStateMachine):
    """One session, another program beside it, and what both must have stored."""

    def __init__(self) -> None:
        super().__init__()
        # In memory where that is possible: what a power cut leaves is tested elsewhere.
        memory = Path("/dev/shm")  # noqa: S108
        self._folder = tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None)
        self.path = Path(self._folder.name) / "sessions.db"
        self.store: Store = open_store(self.path)
        self.loop = asyncio.new_event_loop()
        self.replies = itertools.count()
        self.fingerprint = "f1"
        self.name = "a"
        self.names = itertools.count()
        self.known: dict[int, tuple[int | None, str, str]] = {}
        self.untouched = True
        self.session = self._opened()

    def teardown(self) -> None:
        self._check_nothing_was_overwritten()
        self.store.close()
        self.loop.close()
        self._folder.cleanup()

    # What the program does

    @rule(text=TEXTS, at=AT)
    def send(self, text: str, at: int | None) -> None:
        before = self._texts() if self.session.exists else [self.session.system]
        if self._talk(lambda talk: talk.send(text, Listener()), at):
            assert self._texts()[:-1] == [*before, text]

    @rule(at=AT)
    def retry(self, at: int | None) -> None:
        before = self._texts()
        if self._talk(lambda talk: branching.retry(talk, Listener()), at):
            last = len(before) - before[::-1].index(self._questions()[-1])
            assert self._texts()[:-1] == before[:last]

    @rule(text=TEXTS, at=AT)
    def edit(self, text: str, at: int | None) -> None:
        questions = self._questions()
        if self._talk(lambda talk: branching.edit(talk, text, Listener()), at):
            assert self._questions() == [*questions[:-1], text]
        elif self.untouched:
            # Cancelled or refused: the old question or the new one stands there, never none.
            assert len(self._questions()) == len(questions)

    @rule(at=AT)
    def undo(self, at: int | None) -> None:
        questions = self._questions()
        if self._do(lambda: branching.undo(self.session), at):
            assert self._questions() == questions[:-1]

    @rule(at=AT)
    def undo_and_redo(self, at: int | None) -> None:
        before = self._texts()
        if self._do(lambda: branching.undo(self.session), None) and self._do(
            lambda: branching.redo(self.session), at
        ):
            assert self._texts() == before

    @rule(at=AT)
    def redo(self, at: int | None) -> None:
        self._do(lambda: branching.redo(self.session), at)

    @rule(number=strategies.integers(1, 3), at=AT)
    def choose(self, number: int, at: int | None) -> None:
        self._do(lambda: branching.choose(self.session, number), at)

    @rule(message=strategies.integers(1, 30), at=AT)
    def goto(self, message: int, at: int | None) -> None:
        if self._do(lambda: branching.goto(self.session, message), at):
            assert self.session.messages[-1].id == message

    @rule(at=AT)
    def reset(self, at: int | None) -> None:
        if self._do(self.session.reset, at):
            assert self._questions() == []

    @rule(text=TEXTS, at=AT)
    def set_system(self, text: str, at: int | None) -> None:
        if self._do(lambda: self.session.set_system(text), at):
            assert self.session.system == text

    @rule(at=AT)
    def fork(self, at: int | None) -> None:
        before, name = self._texts(), f"fork{next(self.names)}"
        if self._do(lambda: branching.fork(self.session, name), at):
            assert (self.session.name, self._texts()) == (name, before)

    @rule()
    def replay(self) -> None:
        """The prompts of all recorded replies can be made again from the messages that are stored."""
        if self.session.stored is not None:
            for turn in self.store.recorded_turns(self.session.stored.id, every_branch=True):
                assert self._prompt_of(turn) == turn.generation.prompt_hash, "a reply answers another path"

    @rule(text=TEXTS)
    def finish_while_the_store_is_locked(self, text: str) -> None:
        """The reply is kept in memory, seen on the path, and stored once the lock is gone."""

        def locked(*arguments: Any, **values: Any) -> Any:
            raise StoreLocked("locked by another program")

        finish_reply, self.store.finish_reply = self.store.finish_reply, locked
        try:
            sent = self._talk(lambda talk: talk.send(text, Listener()), None)
        finally:
            self.store.finish_reply = finish_reply
        if sent:
            assert self.session.unsaved == "locked by another program"
            assert self._texts()[-2] == text
            self._run(self.session.save())
        assert self.session.unsaved is None

    @rule(text=TEXTS)
    def be_killed_in_a_reply_and_restart(self, text: str) -> None:
        async def work() -> None:
            async with Engine(model.decoder) as engine:
                talk = Conversation(session=self.session, model=model, engine=engine)
                session = self.session
                prepared = await talk._prepare(
                    text,
                    session.messages,
                    system=session.system,
                    position=session.reply_position,
                    attempt=0,
                )
                with suppress(ChatError):
                    await session.begin_turn(text, prepared.generation)

        model = self._model()
        self._run(work())
        self.restart()

    @precondition(lambda self: self.session.stored is not None)
    @rule()
    def import_and_resume(self) -> None:
        archive = self.store.export_session(self._stored().id)
        self.name = self.store.import_session(archive, name=f"imported{next(self.names)}").name
        self.session = self._opened()

    @rule()
    def use_another_model(self) -> None:
        self.fingerprint = "f2" if self.fingerprint == "f1" else "f1"

    @rule()
    def restart(self) -> None:
        """End the program and resume the session, as after a kill."""
        if self.session.stored is not None:
            self.name = self.store.session_by_id(self.session.stored.id).name
        self.session = self._opened()
        self._finish_pending()

    # What another program does

    @precondition(lambda self: self.session.stored is not None)
    @rule()
    def rename_elsewhere(self) -> None:
        self.store.rename(self._stored().id, f"renamed{next(self.names)}")

    @precondition(lambda self: self.session.stored is not None)
    @rule(text=TEXTS)
    def send_elsewhere(self, text: str) -> None:
        other = ConversationSession(self.store, name=self.store.session_by_id(self._stored().id).name)

        async def work() -> None:
            await other.open()
            async with Engine(self._model().decoder) as engine:
                talk = Conversation(session=other, model=self._model(), engine=engine)
                await talk.send(text, Listener())

        self._run(work())

    @precondition(lambda self: self.session.stored is not None)
    @rule()
    def move_and_rename_elsewhere(self) -> None:
        self.send_elsewhere("elsewhere")
        self.rename_elsewhere()

    @precondition(lambda self: self.session.stored is not None)
    @rule(text=TEXTS)
    def delete_elsewhere(self, text: str) -> None:
        self.store.archive(self._stored().id)
        self.store.purge(self._stored().id)
        assert not self._talk(lambda talk: talk.send(text, Listener()), None)
        self.name = f"after{next(self.names)}"
        self.session = self._opened()
        self.known.clear()

    # What must hold

    @invariant()
    def the_path_in_memory_is_whole(self) -> None:
        """One path of the store from a root on: every message is the parent of the next."""
        messages = self.session.messages
        parents = [None, *(message.id for message in messages)]
        assert [message.parent_id for message in messages] == parents[: len(messages)]
        if self.session.stored is not None:
            head = messages[-1].id if messages else None
            pending = self.store.pending(self.session.stored.id)
            known = {head} | ({pending.user.parent_id} if pending else set())
            assert self.session.stored.head_id in known, "the head and the path in memory differ"

    @invariant()
    def what_is_seen_is_remembered(self) -> None:
        for message in self.session.messages:
            seen = (message.parent_id, message.role, message.content)
            assert self.known.setdefault(message.id, seen) == seen

    @invariant()
    def nothing_is_pending_between_two_steps(self) -> None:
        if self.session.stored is not None:
            assert self.store.pending(self.session.stored.id) is None

    # Helpers

    def _check_nothing_was_overwritten(self) -> None:
        """Every message that was ever on the path is in the store as it was."""
        if self.session.stored is None:
            return
        stored = {each.id: each for each in self.store.export_session(self.session.stored.id).messages}
        for number, (parent, role, content) in self.known.items():
            each = stored.get(number) or self.store.path_to(number)[-1]
            assert (each.parent_id, each.role, each.content) == (parent, role, content)

    def _opened(self) -> ConversationSession:
        async def work() -> ConversationSession:
            session = ConversationSession(self.store, name=self.name)
            await session.open()
            return session

        return self.loop.run_until_complete(work())

    def _stored(self) -> Session:
        assert self.session.stored is not None
        return self.session.stored

    def _questions(self) -> list[str]:
        return [message.content for message in self.session.messages if message.role == "user"]

    def _model(self) -> Any:
        scripts = ([f"reply {number} ", "and more"] for number in self.replies)
        return ScriptedModel(scripts, context_length=10**6, fingerprint=self.fingerprint)

    def _run(self, work: Coroutine[Any, Any, Any]) -> None:
        async def bounded() -> None:
            with anyio.fail_after(20):
                await work

        self.loop.run_until_complete(bounded())

    def _texts(self) -> list[str]:
        return [message.content for message in self.session.messages]

    def _do(self, step: Callable[[], Awaitable[object]], at: int | None) -> bool:
        """Do a step; True if it was neither cancelled nor refused."""
        refused = False

        async def stepped() -> None:
            nonlocal refused
            try:
                await step()
            except ChatError:
                refused = True

        async def work() -> None:
            nonlocal refused
            refused = await cancelled_at(stepped(), at) or refused

        stored = self.session.stored
        with suppress(RecordNotFound):
            self.untouched = stored is None or stored.head_id == self.store.session_by_id(stored.id).head_id
        self._run(work())
        return not refused

    def _talk(self, step: Callable[[Conversation], Awaitable[object]], at: int | None) -> bool:
        model = self._model()

        async def talk() -> None:
            async with Engine(model.decoder) as engine:
                await step(Conversation(session=self.session, model=model, engine=engine))

        return self._do(talk, at)

    def _prompt_of(self, turn: RecordedTurn) -> str:
        *path, user = self.store.path_to(turn.user.id)
        fitted = fit_turn(self._model(), Settings(), path, user.content)
        return prompt_hash(fitted.prompt_ids)

    def _finish_pending(self) -> None:
        async def work() -> None:
            turn = await self.session.pending()
            if turn is not None:
                async with Engine(self._model().decoder) as engine:
                    talk = Conversation(session=self.session, model=self._model(), engine=engine)
                    await talk.finish_pending(turn, Listener())

        self._run(work())


def run(steps: int, *, per_example: int = 30, phases: tuple[Phase, ...] = tuple(Phase)) -> None:
    """Run about so many steps; AssertionError if something does not hold, with the steps that lead there."""
    run_state_machine_as_test(
        ConversationMachine,
        settings=settings(
            max_examples=max(1, steps // per_example),
            stateful_step_count=per_example,
            deadline=None,
            derandomize=True,
            phases=phases,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def main() -> None:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description="Run the state machine of a conversation.")
    parser.add_argument("--steps", type=int, default=10_000)
    flags = parser.parse_args()
    run(flags.steps)
    print(f"about {flags.steps} steps: every path, prompt and head as the model says")


if __name__ == "__main__":
    main()
