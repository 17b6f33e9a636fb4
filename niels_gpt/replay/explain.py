"""Explain a reply: at each token the alternatives, and how likely each was.

The logits are computed again in the reply's own arithmetic; the filters and the draw are those of the
sampling.

V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import torch

from niels_gpt.conversation.branching import last_turn
from niels_gpt.conversation.conversation import Conversation
from niels_gpt.conversation.errors import ChatError
from niels_gpt.decoding.rescoring import logits_rows
from niels_gpt.decoding.sequence import logits_hash, row_sums
from niels_gpt.errors import NielsGptError
from niels_gpt.replay.reconstruct import Asked, Question, ask
from niels_gpt.rng import UniformGenerator
from niels_gpt.sampling import filtered_probs, likeliest, scored
from niels_gpt.text.bpe import CONTROL_TOKENS

if TYPE_CHECKING:
    from niels_gpt.decoding.backend import Backend
    from niels_gpt.decoding.request import GenerationRequest

CANDIDATES = 10
_ON_A_LINE = 4
DECADES = 4.0  # of the odds of a token, on either side of 1 : 1
_SURE, _UNSURE = "+", "-"
_LEAST_SHOWN = 0.005  # of the probability: less would read as 0%


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A token that could stand in a place: its probability among all, and among what the filters leave."""

    token_id: int
    text: str
    before: float
    after: float


@dataclass(frozen=True, kw_only=True)
class ExplainedToken:
    """One token of a reply. `candidates` are the likeliest ones, the chosen one first in `chosen`.

    `low` and `high` are the ends of the chosen token's interval in [0, 1], `draw` the number that fell into
    it; greedy and forced tokens have none. `fits` says whether that number gives this token.
    """

    index: int
    chosen: Candidate
    candidates: tuple[Candidate, ...]
    forced: bool
    draw: float | None
    low: float
    high: float

    @property
    def fits(self) -> bool:
        """Whether the draw gives the token that stands here."""
        if self.forced:
            return True
        return self.chosen.after > 0 and (self.draw is None or self.low <= self.draw < self.high)

    @property
    def margin(self) -> float | None:
        """How far the draw was from the nearest other token; None where nothing was drawn."""
        return None if self.draw is None else min(abs(self.draw - self.low), abs(self.draw - self.high))


@dataclass(frozen=True, kw_only=True)
class Explained:
    """A whole reply. `same_bits`: the logits are the recorded ones; None where none were recorded."""

    question: Question
    request: GenerationRequest
    steps: tuple[ExplainedToken, ...]
    same_bits: bool | None


def explain(model: Backend, asked: Asked) -> Explained:
    """Return every step of a recorded reply; ChatError if it has no tokens, or they do not fit the model."""
    question, request = asked.question, asked.request
    reply_ids = question.recorded.reply.token_ids or ()
    if not reply_ids:
        raise ChatError("the reply has no tokens")
    try:
        rows = logits_rows(model.decoder, request.prompt_ids, reply_ids)
    except NielsGptError as error:
        raise ChatError(str(error)) from error
    forced = len(request.forced_ids)
    receipt = question.recorded.generation.receipt or {}
    recorded = receipt.get("logits_hash")
    same = logits_hash(row_sums(rows[forced:]).tolist()) == recorded
    return Explained(
        question=question,
        request=request,
        steps=tuple(_steps(model, request, reply_ids, torch.from_numpy(rows))),
        same_bits=same if isinstance(recorded, str) else None,
    )


async def explain_last(conversation: Conversation) -> Explained:
    """Explain the last reply of the path. Raises SessionTrouble, ChatError."""
    turn = await last_turn(conversation.session)
    if turn.generation.checkpoint_id != await conversation.checkpoint_id():
        raise ChatError("the last reply was made by another checkpoint: niels-chat why NAME finds it")
    path = tuple(conversation.session.messages[: turn.user.position])
    question = Question(turn=1, recorded=turn, path=path)
    model: Any = conversation.model
    return await anyio.to_thread.run_sync(lambda: explain(model, ask(model, question)))


def step_lines(explained: Explained, only: int | None = None) -> Iterator[str]:
    """Give a line a token, or all candidates of one; ChatError if the reply has no such token.

    A line has the token, how likely it was to be drawn, a scale of how sure the model was of it, and the
    runners-up, the first one always.
    """
    steps = explained.steps
    if only is None:
        yield f"      {'token':<14}  drawn doubt|sure  instead"
        for step in steps:
            others = [each for each in step.candidates if each.token_id != step.chosen.token_id]
            likely = [each for each in others if each.after >= _LEAST_SHOWN] or others[:1]
            also = "  ".join(f"{_quoted(each)} {_small(each)}" for each in likely[:_ON_A_LINE])
            how = "forced" if step.forced else f"{step.chosen.after:.0%}"
            line = f"{step.index:>4}  {_quoted(step.chosen):<14} {how:>6}  {_gauge(step)}  {also}"
            yield line.rstrip()
        yield f"each {_SURE}: ten times more certain; each {_UNSURE}: ten times less; K alone: one token"
    else:
        if not 0 <= only < len(steps):
            raise ChatError(f"there is no token {only}: the reply has tokens 0 to {len(steps) - 1}")
        step = steps[only]
        yield "      token          drawn from  of all"
        for each in step.candidates:
            mark = "*" if each.token_id == step.chosen.token_id else " "
            yield f"{mark} {each.token_id:>5} {_quoted(each):<14} {each.after:>8.2%} {each.before:>8.2%}"
        if step.draw is not None:
            yield f"drawn: {step.draw:.6f}, which is in [{step.low:.6f}, {step.high:.6f})"
    yield _bits(explained)


def shown_text(text: str) -> str:
    """Return a token's text as people see it: the one that ends a reply has no text of its own."""
    return "(end)" if text == CONTROL_TOKENS["eot"] else text


def _quoted(candidate: Candidate) -> str:
    shown = shown_text(candidate.text)
    return repr(shown) if shown == candidate.text else shown


def _small(candidate: Candidate) -> str:
    """Return how likely a candidate was to be drawn, or where it could not be, among all tokens."""
    if candidate.after >= _LEAST_SHOWN:
        return f"{candidate.after:.0%}"
    return f"{candidate.before:.1%}" if candidate.before >= _LEAST_SHOWN else f"{candidate.before:.0e}"


def certainty(step: ExplainedToken) -> float:
    """Return how sure the model was of a token: the decimal logarithm of its odds, from -4 to 4.

    The probability among all tokens is what counts, before filters and temperature: 0 is 1 : 1.
    """
    likely = step.chosen.before
    if not 0 < likely < 1:
        return DECADES if likely >= 1 else -DECADES
    return max(-DECADES, min(DECADES, math.log10(likely / (1 - likely))))


def _gauge(step: ExplainedToken) -> str:
    width, sure = int(DECADES), round(certainty(step))
    left, right = _UNSURE * -min(sure, 0), _SURE * max(sure, 0)
    return f"{left:>{width}}|{right:<{width}} "


def _bits(explained: Explained) -> str:
    if explained.same_bits is None:
        return "no hash of the logits was recorded"
    return "matches the recording" if explained.same_bits else "the logits differ from the recording"


def _steps(
    model: Backend, request: GenerationRequest, reply_ids: Sequence[int], rows: torch.Tensor
) -> Iterator[ExplainedToken]:
    draws = UniformGenerator(request.seed).uniforms(len(reply_ids)).tolist()
    for index, token_id in enumerate(reply_ids):
        history = (*request.prompt_ids, *reply_ids[:index])
        row = scored(rows[index], request.sampling, history, request.banned_ids)
        greedy = request.sampling.is_greedy
        after = _one_hot(row) if greedy else filtered_probs(row, request.sampling)
        before = rows[index].double().softmax(dim=-1)
        bounds = after.cumsum(dim=-1) / after.sum()
        forced = index < len(request.forced_ids)
        shown = torch.topk(after + before * 1e-9, min(CANDIDATES, len(row))).indices.tolist()
        yield ExplainedToken(
            index=index,
            chosen=_candidate(model, token_id, before, after),
            candidates=tuple(_candidate(model, each, before, after) for each in shown),
            forced=forced,
            draw=None if greedy or forced else draws[index],
            low=float(bounds[token_id - 1]) if token_id else 0.0,
            high=float(bounds[token_id]),
        )


def token_text(model: Backend, token_id: int) -> str:
    """Return what a token says; of a control token its name."""
    names = {special: f"<|{name}|>" for name, special in model.tokenizer.special_token_ids().items()}
    return names.get(token_id) or model.tokenizer.token_bytes(token_id).decode("utf-8", errors="replace")


def _one_hot(row: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(row, dtype=torch.float64).index_fill(0, torch.tensor([likeliest(row)]), 1.0)


def _candidate(model: Backend, token_id: int, before: torch.Tensor, after: torch.Tensor) -> Candidate:
    return Candidate(
        token_id=token_id,
        text=token_text(model, token_id),
        before=float(before[token_id]),
        after=float(after[token_id]),
    )
