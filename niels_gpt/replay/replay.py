"""Replay a session: every reply made again from what is stored, side by side, and a verdict on each.

Knows where the parts are and in which order; the store judges its own bytes first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from engine import Result
from niels_gpt.conversation.context import CONTEXT_RULE
from niels_gpt.conversation.errors import ChatError
from niels_gpt.conversation.options import ChatOptions
from niels_gpt.replay.diagnosis import diagnosed
from niels_gpt.replay.find_checkpoint import Load, Unfit, find_model
from niels_gpt.replay.reconstruct import Asked, Question, ask, chosen_turns, questions
from niels_gpt.replay.regenerate import BATCH, regenerate
from niels_gpt.replay.turn_verdict import judge, unverifiable
from niels_gpt.replay.verdict import Difference, Kind, Verdict, differences, overall
from sessions import Fault, Session, Store, Verification

if TYPE_CHECKING:
    from niels_gpt.conversation.model import LoadedChatModel

_OTHER_RULES = "the messages are as they were recorded; what makes a prompt of them is another one: {}"
_UNSAID = "the template or the rule for the context was changed, and its version was not raised"

Progress = Callable[[int, int], None]
"""Hears (replies that are done, of how many)."""


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
        """The one verdict over all; stored bytes that were changed count as a divergence."""
        return "diverged" if self.faults else overall(self.verdicts)


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
    """Replay the path of a session, its whole tree, or one turn of either. Raises StoreError, ChatError."""
    session = store.session(name)
    verification = store.verify(session.id)
    found = chosen_turns(questions(store, session, every_branch=every_branch), turn)
    verdicts: dict[int, Verdict] = {}
    for group in _groups(found):
        done = len(verdicts)
        verdicts |= await _replay_group(
            store,
            group,
            options,
            load,
            batch=batch,
            on_done=lambda n, done=done: on_progress(done + n, len(found)),
        )
    return Replay(
        session=session,
        questions=tuple(found),
        verdicts=tuple(_with_faults(verdicts[question.turn], question, verification) for question in found),
        digest=verification.digest,
        faults=verification.faults,
    )


def _groups(found: Iterable[Question]) -> list[list[Question]]:
    """Put together the turns that one loaded model can replay."""
    groups: dict[tuple[object, ...], list[Question]] = {}
    for question in found:
        generation = question.recorded.generation
        key = (generation.checkpoint_id, generation.environment.get("weights"))
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
) -> dict[int, Verdict]:
    generation = group[0].recorded.generation
    checkpoint = store.checkpoint(generation.checkpoint_id)
    model = find_model(checkpoint, generation.environment, options, load)
    if isinstance(model, Unfit):
        return {question.turn: unverifiable(question, model.why, model.differing) for question in group}
    try:
        return await _judged(group, model, checkpoint.parts, batch=batch, on_done=on_done)
    finally:
        model.close()


async def _judged(
    group: list[Question],
    model: LoadedChatModel,
    parts: Mapping[str, str],
    *,
    batch: int,
    on_done: Callable[[int], None],
) -> dict[int, Verdict]:
    verdicts: dict[int, Verdict] = {}
    differing: dict[int, tuple[Difference, ...]] = {}
    asked: list[Asked] = []
    for question in group:
        environment = question.recorded.generation.environment
        differing[question.turn] = differences(
            parts, model.checkpoint["parts"], environment, environment_now(model)
        )
        try:
            asked.append(ask(model, question))
        except ChatError as error:
            verdicts[question.turn] = unverifiable(question, str(error), differing[question.turn])
    # Another prompt is a divergence already, and a reply that said nothing has nothing to generate.
    running = [each for each in asked if each.request is not None and _same_prompt(each)]
    results = await regenerate(
        model.decoder, [each.request for each in running], batch=batch, on_done=on_done
    )
    result_of = {each.question.turn: result for each, result in zip(running, results, strict=True)}
    for each in asked:
        number = each.question.turn
        result = result_of.get(number)
        verdict = judge(each, result, model=model, differing=differing[number])
        found_ids = result.token_ids if isinstance(result, Result) else ()
        verdicts[number] = diagnosed(verdict, each, found_ids, model)
    return verdicts


def environment_now(model: LoadedChatModel) -> dict[str, object]:
    """Return what would be recorded of a reply's circumstances if it were made now."""
    return {**model.environment, "context_rule": CONTEXT_RULE}


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
