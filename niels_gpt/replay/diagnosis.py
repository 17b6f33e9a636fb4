"""Tell what kind of fault a divergence looks like: one changed token, a generator off by one, another seed.

The intervals that the recorded tokens take up in their distributions are computed again; a fault shows in
which draws fall into them. Where nothing can be told, no remark is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from niels_gpt.conversation.errors import ChatError
from niels_gpt.replay.environment import recorded_environment
from niels_gpt.replay.explain import ExplainedToken, explain
from niels_gpt.replay.reconstruct import Asked
from niels_gpt.replay.verdict import Verdict
from niels_gpt.rng import UniformGenerator, reply_seed

if TYPE_CHECKING:
    from niels_gpt.decoding.backend import Backend

_SHIFTS = (1, -1, 2, -2)


def diagnosed(verdict: Verdict, asked: Asked, found_ids: Sequence[int], model: Backend) -> Verdict:
    """Return a verdict that diverged at a token with the margin there, and remarks on what it looks like."""
    divergence = verdict.divergence
    if divergence is None or divergence.place != "token":
        return verdict
    try:
        steps = explain(model, asked).steps
    except ChatError:
        return verdict  # the stored reply is not one that this model could give
    margin = _distance(steps[divergence.index]) if divergence.index < len(steps) else None
    remarks = _remarks(asked, found_ids, steps)
    return replace(
        verdict,
        divergence=replace(divergence, margin=margin),
        remarks=(*verdict.remarks, *remarks),
    )


def _remarks(asked: Asked, found_ids: Sequence[int], steps: Sequence[ExplainedToken]) -> Iterable[str]:
    recorded = asked.question.recorded
    ids = recorded.reply.token_ids or ()
    differing = [i for i, (a, b) in enumerate(zip(ids, found_ids, strict=False)) if a != b]
    if len(ids) == len(found_ids) and len(differing) == 1:
        yield "all other tokens are the recorded ones: this one was changed after it was drawn"
    if _fits(steps, recorded.generation.seed, shift=0):
        yield "every recorded token fits its seed: what made the reply again is at fault"
        return
    for shift in _SHIFTS:
        if _fits(steps, recorded.generation.seed, shift=shift):
            ahead = "ahead" if shift > 0 else "behind"
            yield f"every token fits this seed with its generator {abs(shift)} {ahead}: draws are miscounted"
            break
    source = recorded_environment(recorded.generation).seed_source
    if source is not None:
        seed = reply_seed(source.session_seed, source.turn, source.attempt)
        if seed != recorded.generation.seed and _fits(steps, seed, shift=0):
            yield f"every token fits the seed {seed}: the stored seed was changed"


def _fits(steps: Sequence[ExplainedToken], seed: int, *, shift: int) -> bool:
    """Return whether all drawn tokens are those of this seed's generator, `shift` draws on."""
    most = len(steps) + abs(shift)
    draws = UniformGenerator(seed).uniforms(most).tolist()
    drawn = [step for step in steps if step.draw is not None and step.index + shift >= 0]
    return bool(drawn) and all(step.low <= draws[step.index + shift] < step.high for step in drawn)


def _distance(step: ExplainedToken) -> float | None:
    """Return how far the draw was from giving the recorded token; None where nothing was drawn."""
    if step.draw is None:
        return None
    return max(step.low - step.draw, step.draw - step.high, 0.0)
