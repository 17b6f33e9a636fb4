"""Define requests to a decoder and the steps that it returns, as plain values.

A request holds every choice that decides a reply, so that the same request gives the same reply again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, cast

import numpy as np

from niels_gpt.errors import NielsGptError
from niels_gpt.sampling import Sampling

_NAMES_OF_IDS = ("prompt_ids", "forced_ids", "stop_ids", "banned_ids")
FinishReason = Literal["stop", "length", "context"]


class RequestError(NielsGptError):
    """The request cannot be served; the message names the field."""


class DecoderError(NielsGptError):
    """A decoder cannot be created with these arguments, or cannot admit another reply."""


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """One reply to generate. A value out of range raises `RequestError`."""

    prompt_ids: tuple[int, ...]
    """The prompt; at least one id."""
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
    """The reply's first tokens, given instead of drawn. Each still uses one draw of the generator, so that a
    reply that is forked after its first k tokens continues as before. Fewer than max_new_tokens."""
    draft_ids: tuple[int, ...] = ()
    """The expected reply, after its forced tokens. A decoder may read it ahead, many tokens a step, and still
    draws every token: a wrong draft changes nothing but the speed."""
    speculate: bool = False
    """Whether a decoder may draft further tokens itself (`niels_gpt.decoding.speculation`), while that is
    faster. It changes no bit of the reply."""
    examples: tuple[tuple[int, ...], ...] = ()
    """Texts that the reply may repeat in part, such as earlier replies to the same prompt, the likeliest
    last. Drafts are looked up in them."""
    watch: Callable[[int, np.ndarray], None] | None = field(default=None, compare=False)
    """Called with each drawn token and the logits (V,) that it was drawn from, on the compute thread, before
    the token is published. The array is reused afterwards. It has no influence on the reply."""
    use_cache: bool = True
    """False recomputes the whole sequence for every token: the reference for cached decoding."""

    def __post_init__(self) -> None:
        self._check_ids(None)
        for name, valid, expected in (
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
                raise RequestError(f"{name} is {getattr(self, name)!r}, expected {expected}")

    def within(self, V: int) -> GenerationRequest:
        """Return this request for a vocabulary of V ids, every id of it in [0, V).

        Every decoder admits only the returned request, since an id outside of the vocabulary would read
        memory outside of a table. A draft and examples are only guesses, often from a store, so each is cut
        before its first such id.

        Raises:
            RequestError: An id outside of draft and examples is not in the vocabulary.

        """
        self._check_ids(V)
        guesses = self.draft_ids, *self.examples
        draft_ids, *examples = (ids[: first_outside(ids, V)] for ids in guesses)
        if (draft_ids, *examples) == guesses:
            return self
        return replace(self, draft_ids=draft_ids, examples=tuple(examples))

    def _check_ids(self, V: int | None) -> None:
        biased = tuple(token_id for token_id, _ in self.sampling.logit_bias)
        named = {name: tuple(getattr(self, name)) for name in _NAMES_OF_IDS}
        for name, ids in (*named.items(), ("logit_bias", biased)):
            wrong = first_outside(ids, V)
            if wrong is not None:
                known = "whole numbers from 0" if V is None else f"ids from 0 to {V - 1}"
                raise RequestError(f"{name} has the token id {shown(ids[wrong])}, expected {known}")


def first_outside(ids: Sequence[object], V: int | None) -> int | None:
    """Return the index of the first of `ids` that is not a whole number in [0, V), or None if all are.

    V None: whole numbers from 0.
    """
    kinds = {type(token_id) for token_id in ids}
    if all(hasattr(kind, "__index__") and kind is not bool for kind in kinds):
        numbers = cast("Sequence[int]", ids)
        if not numbers or (min(numbers) >= 0 and (V is None or max(numbers) < V)):
            return None
    return next(index for index, token_id in enumerate(ids) if not _is_id(token_id, V))


def shown(value: object) -> str:
    """Return `repr(value)`, or the size of a number that Python refuses to write in decimal."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"of {value.bit_length()} bits"
    return repr(value)


def _is_id(value: object, V: int | None) -> bool:
    if not hasattr(value, "__index__") or isinstance(value, bool):
        return False
    number = cast("int", value)
    return number >= 0 and (V is None or number < V)


@dataclass(frozen=True, kw_only=True)
class Step:
    """The result of one step for one sequence."""

    tokens: tuple[tuple[int, str], ...] = ()
    """(token id, text that became certain with it); none while the prompt is prefilled."""
    finish: FinishReason | None = None
    """Why the reply ends with this step, or None."""
    error: Exception | None = None
    """Why this sequence, and no other, cannot continue, or None."""
