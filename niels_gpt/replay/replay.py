"""Replay a session: make every reply again from what is stored, side by side, and judge each.

The store checks its own digests first. Everything that takes long runs on worker threads, so the event loop
of a chat stays free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import anyio.to_thread

from engine import Result
from niels_gpt.conversation.errors import ChatError
from niels_gpt.conversation.options import ChatOptions
from niels_gpt.replay.diagnosis import diagnosed
from niels_gpt.replay.environment import RecordedEnvironment, recorded_environment
from niels_gpt.replay.find_checkpoint import Load, Unfit, find_model
from niels_gpt.replay.reconstruct import Asked, Question, ask, chosen_turns, questions
from niels_gpt.replay.regenerate import BATCH, regenerate
from niels_gpt.replay.turn_verdict import judge, unverifiable
from niels_gpt.replay.verdict import Difference, Kind, Verdict, differences, overall
from sessions import Checkpoint, Fault, Session, Store, Verification

if TYPE_CHECKING:
    from niels_gpt.decoding.backend import Backend

_OTHER_RULES = "the messages are as recorded, but the prompt made from them differs because of: {}"
_UNSAID = "the template or the context rule, which changed without a new version"

Progress = Callable[[int, int], None]
"""Called with the number of replies that are done, and of how many."""


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What a replay found. `faults` are stored bytes whose digest does not hold."""

    session: Session
    questions: tuple[Question, ...]
    verdicts: tuple[Verdict, ...]
    digest: str
    faults: tuple[Fault, ...]

    @property
    def kind(self) -> Kind:
        """The overall verdict; stored bytes that were changed count as a divergence."""
        return "diverged" if self.faults else overall(self.verdicts)

    @property
    def tokens(self) -> int:
        """How many tokens the recorded replies have."""
        return sum(question.tokens for question in self.questions)


async def replay(
    store: Store,
    name: str,
    options: ChatOptions,
    load: Load,
    *,
    turn: int | None = None,
    every_branch: bool = False,
    batch: int = BATCH,
    on_progress: Progress = lambda _done, _all: None,
) -> Replay:
    """Replay a session.

    Args:
        store: Where it is kept.
        name: The session.
        options: Which checkpoint to use, if one is given, and how to compute.
        load: Loads a checkpoint.
        turn: Replay this turn only, counted from 1 along the path or the tree.
        every_branch: Replay the whole tree and not only the path.
        batch: How many replies are made side by side.
        on_progress: Called with how many replies are done, and of how many.

    Raises:
        StoreError: The store cannot be read, or has no such session.
        ChatError: There is no such turn.
    """

    def read() -> tuple[Session, Verification, list[Question]]:
        session = store.session(name)
        verification = store.verify(session.id)
        return session, verification, chosen_turns(questions(store, session, every_branch=every_branch), turn)

    session, verification, found = await anyio.to_thread.run_sync(read)
    verdicts: dict[int, Verdict] = {}
    for group in grouped(found):
        done = len(verdicts)
        judged = await _replay_group(
            store,
            group,
            options,
            load,
            batch=batch,
            on_done=lambda n, done=done: on_progress(done + n, len(found)),
        )
        verdicts |= {question.turn: verdict for question, verdict in zip(group, judged, strict=True)}
    return Replay(
        session=session,
        questions=tuple(found),
        verdicts=tuple(_with_faults(verdicts[question.turn], question, verification) for question in found),
        digest=verification.digest,
        faults=verification.faults,
    )


def grouped(found: Iterable[Question]) -> list[list[Question]]:
    """Put together the turns that one loaded model can replay."""
    groups: dict[tuple[object, ...], list[Question]] = {}
    for question in found:
        generation = question.recorded.generation
        key = (generation.checkpoint_id, recorded_environment(generation).weights)
        groups.setdefault(key, []).append(question)
    return list(groups.values())


async def _replay_group(
    store: Store,
    group: list[Question],
    options: ChatOptions,
    load: Load,
    *,
    batch: int,
    on_done: Callable[[int], None],
) -> list[Verdict]:
    generation = group[0].recorded.generation

    def find() -> tuple[Checkpoint, Backend | Unfit]:
        checkpoint = store.checkpoint(generation.checkpoint_id)
        return checkpoint, find_model(checkpoint, recorded_environment(generation), options, load)

    # A load cannot be interrupted: a cancelled replay waits for it, and then closes what was loaded.
    checkpoint, model = await anyio.to_thread.run_sync(find)
    if isinstance(model, Unfit):
        return [unverifiable(question, model.why, model.differing) for question in group]
    try:
        return await judged(group, model, checkpoint.parts, batch=batch, on_done=on_done)
    finally:
        model.close()


async def judged(
    group: Sequence[Question],
    model: Backend,
    parts: Mapping[str, str],
    *,
    batch: int,
    on_done: Callable[[int], None],
) -> list[Verdict]:
    """Make replies again with one model, side by side, and return the verdict on each, in order.

    Args:
        group: The recorded turns, of one session or of several.
        model: The model to ask.
        parts: The recorded parts of the checkpoint's fingerprint.
        batch: How many replies are made side by side.
        on_done: Hears how many are done.

    """
    differing = [_differing(each, model, parts) for each in group]
    asked = await anyio.to_thread.run_sync(_asked, group, model)
    # Another prompt is a divergence already, and a reply that said nothing has nothing to generate.
    running = [
        each for each in asked if isinstance(each, Asked) and each.request is not None and _same_prompt(each)
    ]
    found = await regenerate(model.decoder, [each.request for each in running], batch=batch, on_done=on_done)
    results = {id(each): result for each, result in zip(running, found, strict=True)}

    def judge_all() -> list[Verdict]:
        verdicts: list[Verdict] = []
        for question, each, differ in zip(group, asked, differing, strict=True):
            if isinstance(each, ChatError):
                verdicts.append(unverifiable(question, str(each), differ))
                continue
            result = results.get(id(each))
            verdict = judge(each, result, model=model, differing=differ)
            found_ids = result.token_ids if isinstance(result, Result) else ()
            verdicts.append(diagnosed(verdict, each, found_ids, model))
        return verdicts

    return await anyio.to_thread.run_sync(judge_all)


def _asked(group: Sequence[Question], model: Backend) -> list[Asked | ChatError]:
    """Return the request for each turn, or why it cannot be asked for."""
    asked: list[Asked | ChatError] = []
    for question in group:
        try:
            asked.append(ask(model, question))
        except ChatError as error:
            asked.append(error)
    return asked


def _differing(question: Question, model: Backend, parts: Mapping[str, str]) -> tuple[Difference, ...]:
    recorded = recorded_environment(question.recorded.generation)
    return differences(parts, model.checkpoint["parts"], recorded.values, environment_now(model, recorded))


def environment_now(model: Backend, recorded: RecordedEnvironment) -> dict[str, object]:
    """Return the circumstances under which a reply is made again: its own context rule, the rest of now."""
    return {**model.environment, "context_rule": recorded.context_rule}


def _same_prompt(asked: Asked) -> bool:
    return asked.prompt_hash == asked.question.recorded.generation.prompt_hash


def _with_faults(verdict: Verdict, question: Question, verification: Verification) -> Verdict:
    """Add to a verdict what was changed in the bytes that the turn is made of."""
    turn = question.recorded
    messages = {turn.user.id, turn.reply.id, *(message.id for message in question.path)}
    mine = [
        f"changed after it was recorded: {fault.where}"
        for fault in verification.faults
        if fault.generation_id == turn.generation.id or fault.message_id in messages
    ]
    if verdict.divergence is not None and verdict.divergence.place == "prompt" and not mine:
        changed = {difference.part for difference in verdict.differing} & {"template", "context_rule"}
        mine = [_OTHER_RULES.format(" and ".join(sorted(changed)) or _UNSAID)]
    return replace(verdict, remarks=(*verdict.remarks, *mine))
