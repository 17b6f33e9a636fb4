"""Make of a stored session the requests that its replies were generated from.

The path to each user message, the system prompt on it, the recorded context rule and the template give the
prompt again; what is stored with the reply gives the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from niels_gpt.conversation.context import prompt_hash
from niels_gpt.conversation.errors import ChatError
from niels_gpt.conversation.planning import fit_recorded, recorded_settings, request_for
from niels_gpt.decoding.backend import Backend
from sessions import Message, RecordedTurn, Session, SessionArchive, Store


@dataclass(frozen=True, kw_only=True)
class Question:
    """One recorded turn with the messages before it; `turn` counts from 1 along what is replayed."""

    turn: int
    recorded: RecordedTurn
    path: tuple[Message, ...]
    """From the root to what the user's message answers."""

    @property
    def position(self) -> int:
        """The reply's place on its path."""
        return self.recorded.reply.position

    @property
    def tokens(self) -> int:
        """How many tokens the recorded reply has."""
        return len(self.recorded.reply.token_ids or ())

    @property
    def was_cancelled(self) -> bool:
        """Whether the reply was stopped by a person: then it is made again up to its last stored token."""
        return self.recorded.reply.status == "cancelled"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question as it is put to a model again."""

    question: Question
    prompt_hash: str
    trimmed_turns: int
    request: Any
    """None where there is nothing to generate: the reply was cancelled before its first token."""


def questions(store: Store, session: Session, *, every_branch: bool) -> list[Question]:
    """Return the answered turns of the session's path, or of its whole tree, in the order they were made."""
    by_id = {message.id: message for message in store.export_session(session.id).messages}
    return _questions(store.recorded_turns(session.id, every_branch=every_branch), by_id)


def archived_questions(archive: SessionArchive) -> list[Question]:
    """Return the answered turns of an exported session's whole tree, in the order they were made."""
    by_id = {message.id: message for message in archive.messages}
    turns = [
        RecordedTurn(user=by_id[each.user_message_id], reply=by_id[each.reply_id], generation=each)
        for each in archive.generations
        if each.reply_id is not None
    ]
    return _questions(sorted(turns, key=lambda turn: turn.reply.id), by_id)


def _questions(turns: Iterable[RecordedTurn], by_id: Mapping[int, Message]) -> list[Question]:
    return [
        Question(turn=number, recorded=turn, path=_path_before(turn.user, by_id))
        for number, turn in enumerate(turns, start=1)
    ]


def ask(model: Backend, question: Question, *, whole: bool = False) -> Asked:
    """Return the request for a recorded reply.

    A cancelled reply is asked for up to its last stored token, unless `whole` asks for what it would have
    become. Raises ChatError where the model cannot be asked: no room, damaged settings.
    """
    generation = question.recorded.generation
    settings = recorded_settings(generation)
    fitted = fit_recorded(model, settings, question.path, question.recorded.user.content, generation)
    request = None
    if whole or not question.was_cancelled:
        wanted = settings
    else:
        wanted = replace(settings, max_new_tokens=question.tokens)
    if wanted.max_new_tokens:
        request = request_for(
            model, fitted.prompt_ids, wanted, seed=generation.seed, forced_ids=generation.forced_ids
        )
        # What is recorded is what is expected: a decoder that can read it ahead judges it many times faster.
        recorded_ids = question.recorded.reply.token_ids or ()
        request = replace(request, draft_ids=recorded_ids[len(generation.forced_ids) :])
    return Asked(
        question=question,
        prompt_hash=prompt_hash(fitted.prompt_ids),
        trimmed_turns=fitted.trimmed_turns,
        request=request,
    )


def _path_before(user: Message, by_id: Mapping[int, Message]) -> tuple[Message, ...]:
    path: list[Message] = []
    at = user.parent_id
    while at is not None:
        message = by_id[at]
        path.append(message)
        at = message.parent_id
    return tuple(reversed(path))


def chosen_turns(found: Sequence[Question], turn: int | None) -> list[Question]:
    """Return all turns, or the one of that number; ChatError if there is none."""
    if turn is None:
        return list(found)
    if not 1 <= turn <= len(found):
        raise ChatError(f"there is no turn {turn}: the session has {len(found)} answered turns")
    return [found[turn - 1]]
