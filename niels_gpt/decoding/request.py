"""What a decoder is asked for, and what it answers step by step. Values only.

Every choice that decides a reply stands in its request, so that the same request gives the same reply
again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from niels_gpt.errors import NielsGptError
from niels_gpt.sampling import Sampling

FinishReason = Literal["stop", "length", "context"]


class RequestError(NielsGptError):
    """A request that no decoder, or not this one, can serve; the message names the field."""


class DecoderError(NielsGptError):
    """A decoder that cannot be made as asked, or cannot take one more reply."""


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """One reply to generate. A value out of range raises `RequestError`."""

    prompt_ids: tuple[int, ...]
    """What the model reads first; at least one id."""
    max_new_tokens: int
    """The reply ends with "length" after this many tokens; at least 1."""
    sampling: Sampling
    seed: int
    """Seeds the reply's own torch.Generator; in [0, 2**63)."""
    stop_ids: frozenset[int]
    """The reply ends with "stop" once one of these ids is drawn; the id is its last token."""
    stop_sequences: tuple[bytes, ...]
    """The reply ends with "stop" once its bytes hold one of these; its text ends before it."""
    banned_ids: frozenset[int]
    """Ids that are never drawn."""
    forced_ids: tuple[int, ...] = ()
    """The reply's first tokens, taken instead of drawn; each still spends one draw of the generator, so that
    a reply that is forked after its first k tokens goes on as it did before. Fewer than max_new_tokens."""
    draft_ids: tuple[int, ...] = ()
    """What the reply, after its forced tokens, is expected to be. A decoder may read it ahead, many tokens a
    step, and draws all the same: where the draft is wrong nothing changes but the speed."""
    use_cache: bool = True
    """False computes the whole sequence anew for every token: the slow twin of the cached way."""

    def __post_init__(self) -> None:
        lowest = min(self._named_ids(), default=0)
        for field, valid, expected in (
            ("prompt_ids", len(self.prompt_ids) > 0, "at least one token id"),
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            ("seed", 0 <= self.seed < 2**63, "a number in [0, 2**63)"),
            ("stop_sequences", all(self.stop_sequences), "no empty stop sequence"),
            ("forced_ids", self.banned_ids.isdisjoint(self.forced_ids), "no banned id"),
            (
                "forced_ids",
                len(self.forced_ids) < max(1, self.max_new_tokens),
                f"fewer than max_new_tokens, which is {self.max_new_tokens}",
            ),
        ):
            if not valid:
                raise RequestError(f"{field} is {getattr(self, field)!r}, expected {expected}")
        if lowest < 0:
            raise RequestError(f"the request names the token id {lowest!r}, expected ids from 0")

    def check_vocabulary(self, V: int) -> None:
        """Raise `RequestError` for an id that a vocabulary of V does not have."""
        highest = max(self._named_ids())
        if highest >= V:
            raise RequestError(f"the request names the token id {highest}, the model knows 0 to {V - 1}")

    def _named_ids(self) -> tuple[int, ...]:
        return (*self.prompt_ids, *self.forced_ids, *self.stop_ids, *self.banned_ids)


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one sequence did in one step."""

    tokens: tuple[tuple[int, str], ...] = ()
    """(token id, text that became certain with it); none while the prompt is being read."""
    finish: FinishReason | None = None
    """Why the reply ends with this step, or None."""
    error: Exception | None = None
    """Why this sequence, and no other, cannot go on, or None."""
