"""Compare a conversation with the replies of another checkpoint in the same places, word by word.

Each reply is asked for after the recorded conversation up to there, under the recorded seed and settings.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from engine import GenerationFailed, Result
from niels_gpt.conversation.errors import ChatError
from niels_gpt.conversation.options import ChatOptions, check_checkpoint
from niels_gpt.replay.find_checkpoint import Load, missing_parts
from niels_gpt.replay.reconstruct import Asked, ask, chosen_turns, questions
from niels_gpt.replay.regenerate import BATCH, regenerate
from niels_gpt.replay.replay import Progress
from niels_gpt.replay.turn_verdict import found_account
from niels_gpt.replay.word_diff import Piece, word_difference
from sessions import Store

if TYPE_CHECKING:
    from niels_gpt.decoding.backend import Backend


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One turn: the recorded reply and the other; `failure` says why there is none."""

    turn: int
    question: str
    recorded: str
    now: str
    pieces: tuple[Piece, ...]
    failure: str = ""

    @property
    def same(self) -> bool:
        """Whether both texts are equal."""
        return not self.failure and self.recorded == self.now

    def value(self) -> dict[str, object]:
        """Return it as JSON values."""
        return {**asdict(self), "same": self.same}


def other_model(store: Store, name: str, options: ChatOptions, load: Load) -> Backend | None:
    """Load the given checkpoint; None if a reply of the session was made with its weights.

    Then it is one to verify with. Raises StoreError before anything is loaded, and LoadFailed.
    """
    check_checkpoint(options)
    session = store.session(name)
    turns = store.recorded_turns(session.id, every_branch=True)
    known = [store.checkpoint(each) for each in {turn.generation.checkpoint_id for turn in turns}]
    model = load(options)
    if any(not missing_parts(each.parts, model) for each in known):
        model.close()
        return None
    return model


async def compare_session(
    store: Store,
    name: str,
    model: Backend,
    *,
    turn: int | None = None,
    every_branch: bool = False,
    batch: int = BATCH,
    on_progress: Progress = lambda _done, _all: None,
) -> list[Compared]:
    """Return for each turn what the model says in the recorded reply's place; StoreError, ChatError."""
    found = chosen_turns(questions(store, store.session(name), every_branch=every_branch), turn)
    asked: list[Asked | ChatError] = []
    for question in found:
        try:
            asked.append(ask(model, question))
        except ChatError as error:
            asked.append(error)
    running = [each for each in asked if isinstance(each, Asked) and each.request is not None]
    results = await regenerate(
        model.decoder,
        [each.request for each in running],
        batch=batch,
        on_done=lambda done: on_progress(done, len(running)),
    )
    result_of = {each.question.turn: result for each, result in zip(running, results, strict=True)}
    compared: list[Compared] = []
    for question, each in zip(found, asked, strict=True):
        recorded = question.recorded.reply.content
        now, failure = _said_now(each, result_of.get(question.turn), model)
        compared.append(
            Compared(
                turn=question.turn,
                question=question.recorded.user.content,
                recorded=recorded,
                now=now,
                pieces=() if failure else tuple(word_difference(recorded, now)),
                failure=failure,
            )
        )
    return compared


def _said_now(
    asked: Asked | ChatError, result: Result | GenerationFailed | None, model: Backend
) -> tuple[str, str]:
    """Return the text in a recorded reply's place, or why there is none."""
    if isinstance(asked, ChatError):
        return "", str(asked)
    if isinstance(result, GenerationFailed):
        return "", str(result)
    return found_account(asked, result, model).text, ""
